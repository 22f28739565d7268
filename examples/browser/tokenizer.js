// WordPiece as BERT has it, from the `tokenizer.json` of an export, and the cleaning of captions before it.

const PUNCTUATION_OF_CAPTIONS = /[,.'!?"()*#:;~]/g;
const SEPARATORS = /[\p{P}\p{S}]/u;

/** Clean a phrase as training cleans captions (the published `pre_caption`). */
export function cleanCaption(text, maxWords) {
  const plain = text.toLowerCase().replace(PUNCTUATION_OF_CAPTIONS, "").replace(/[-/]/g, " ");
  return plain.replace("<person>", "person").replace(/\s{2,}/g, " ").trim().split(" ").slice(0, maxWords).join(" ");
}

export class Tokenizer {
  /** Take the parsed `tokenizer.json`; throws an Error unless it is a WordPiece vocabulary. */
  constructor(file) {
    if (file.model?.type !== "WordPiece") throw new Error("this page reads WordPiece vocabularies (BERT) alone");
    this.vocab = new Map(Object.entries(file.model.vocab));
    for (const added of file.added_tokens ?? []) this.vocab.set(added.content, added.id);
    this.longest = file.model.max_input_chars_per_word ?? 100;
    this.unknown = this.vocab.get(file.model.unk_token ?? "[UNK]");
    this.cls = this.vocab.get("[CLS]");
  }

  /** Return the ids of a cleaned text, the beginning included, at most `maxTokens` of them. */
  encode(text, maxTokens) {
    const ids = words(text).flatMap((word) => this.pieces(word));
    if (!ids.some((id) => id !== this.unknown)) throw new Error(`no word of “${text}” is known to the model`);
    return [this.cls, ...ids].slice(0, maxTokens);
  }

  /** Return the ids of the longest known pieces of a word, from its beginning on. */
  pieces(word) {
    if ([...word].length > this.longest) return [this.unknown];
    const letters = [...word], ids = [];
    for (let start = 0; start < letters.length; ) {
      let end = letters.length, id;
      for (; end > start && id === undefined; end--) {
        id = this.vocab.get((start ? "##" : "") + letters.slice(start, end).join(""));
      }
      if (id === undefined) return [this.unknown];
      ids.push(id);
      start = end + 1;
    }
    return ids;
  }
}

/** Split a text at white space, punctuation and Chinese characters; accents are dropped, as uncased BERT does. */
function words(text) {
  const plain = text.toLowerCase().normalize("NFD").replace(/\p{Mn}/gu, "");
  const spaced = [...plain].map((letter) =>
    SEPARATORS.test(letter) || /\p{Script=Han}/u.test(letter) ? ` ${letter} ` : /\p{C}/u.test(letter) ? " " : letter
  );
  return spaced.join("").split(/\s+/).filter(Boolean);
}
