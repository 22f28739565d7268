"""Leave out texts in other languages, by py3langid (`pip install 'xvlm[prepare]'`).

Captions of a few words are often taken for another language, so short ones stay.
"""

from __future__ import annotations

from xvlm.common.errors import InputError
from xvlm.prepare.filtering import Filter


def make(languages: str = "en", min_probability: float = 0.5, min_words: int = 5) -> Filter:
    """Return the filter.

    Args:
        languages: codes of the languages that stay, joined by +.
        min_probability: smallest probability of another language for which a text is left out.
        min_words: texts with fewer words stay.
    Raises:
        InputError: a code is unknown.
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    wanted, known = set(languages.split("+")), sorted(identifier.labels)
    if unknown := sorted(wanted - set(known)):
        raise InputError(f"languages has {', '.join(unknown)}; known are {' '.join(known)}")

    def text(text: str) -> str | None:
        if len(text.split()) < min_words:
            return None
        language, probability = identifier.classify(text)
        return None if language in wanted or probability < min_probability else "text in another language"

    return Filter(text)
