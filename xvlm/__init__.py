"""xvlm: multi-grained vision-language pre-training (X-VLM, ICML 2022).

Shape legend; names carry these letters as suffixes where tensors meet (`box_xyxy_N4`, `q_THK`):

    B  images in the batch
    N  text-concept rows: one text with the concept (object, region, image) that it describes
    T  packed tokens: the tokens of all texts, one after another, no padding
    L  tokens of the longest text
    P  patches of an image, row-major
    D  width of a token, text or vision as the module says
    H  attention heads
    K  width of one head
    V  vocabulary
    M  masked tokens
    E  width of the shared contrastive space
"""
