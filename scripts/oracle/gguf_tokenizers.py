"""Writes tests/golden/tokenizers/: small tokenizers as GGUF files that hold only a vocabulary, and the ids that the
originals give.

The originals are trained here on the texts of smollm2_cases.py: byte-level BPE by `tokenizers`, set up as the
tokenizers of published models are, and SentencePiece's BPE by `sentencepiece`. Run it with the Python that
scripts/oracle/setup.sh prints.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import gguf
import sentencepiece
import tokenizers
from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GPTNeoXTokenizer, Qwen2Tokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer
from transformers.tokenization_utils_base import generate_merges

from smollm2_cases import PROMPTS, STORY, TEXTS

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "golden" / "tokenizers"
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<think>", "</think>"]

PLAIN_TEXTS = [text for text in TEXTS if not any(token in text for token in CONTROL + USER_DEFINED)] + [
    "HTTPServer's XMLHttpRequest'S iPhone'll McDONALD'S ǅungla ʰʷ",
    "a//b\n/c/\n\n/d ;;\n;/ ///\r\n",
    "12345678 1234567 123 3.3 3..3 3...3",
    "देवनागरी लिपि, ไม่มีอะไร, e\u0301\u0327x \u0301alone",
    "  two spaces\n   three\n    four \n a▁b",
    "Việt Nam, xin chào! lighthouse at Skerry Point, folded and sorted",
]
SPECIAL_TEXTS = [text for text in TEXTS if text not in PLAIN_TEXTS] + [
    "<think>hm</think> so<think> <think>\n\n",
    "<|im_start|> <|im_end|>lamp <|im_start|>user\n  lamp<|im_end|>\n",
]
TEXTS = PLAIN_TEXTS + SPECIAL_TEXTS


def corpus():
    lines = STORY.split(". ") + [case["response"] for case in PROMPTS] + PLAIN_TEXTS
    return [line for line in lines if line.strip()]


@dataclass
class Original:
    """A tokenizer, and what a GGUF file says of it."""

    tokenizer: Tokenizer
    tokens: list
    types: list
    model: str
    merges: list = None
    pre: str = None
    scores: list = None
    add_space_prefix: bool = None


@dataclass
class Recipe:
    """How a byte-level tokenizer prepares a text."""

    # What cuts it, before GPT-2's pattern if that follows.
    steps: list
    gpt2: bool = False
    normalizer: object = None
    # Whether a piece that is a token is taken as it is.
    ignore_merges: bool = False


def split(*patterns):
    return [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]


def published(pre):
    """The pattern that transformers knows by llama.cpp's name."""
    return split(GGUF_PRE_TOKENIZER_SPLITS[pre])


def normalizer(tokenizer_class):
    return tokenizer_class().backend_tokenizer.normalizer


BYTE_LEVEL = {
    # llama.cpp's own.
    "default": Recipe(
        split(
            r"[\p{P}\$\+<=>\^~\|]+",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
            r"\p{N}+",
            r"[0-9][0-9][0-9]",
        )
    ),
    "gpt-2": Recipe([], gpt2=True),
    "olmo": Recipe([], gpt2=True, normalizer=normalizer(GPTNeoXTokenizer)),
    "refact": Recipe([pre_tokenizers.Digits(individual_digits=True)], gpt2=True),
    "llama-bpe": Recipe(published("llama-bpe"), ignore_merges=True),
    "dbrx": Recipe(published("dbrx")),
    "qwen2": Recipe(published("qwen2"), normalizer=normalizer(Qwen2Tokenizer)),
    "qwen35": Recipe(published("qwen35"), normalizer=normalizer(Qwen3_5Tokenizer)),
    "gpt-4o": Recipe(published("gpt-4o")),
    "tekken": Recipe(published("tekken"), ignore_merges=True),
}


def train_byte_level(pre):
    recipe = BYTE_LEVEL[pre]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=recipe.gpt2)

    def assemble(model):
        tokenizer = Tokenizer(model)
        if recipe.normalizer is not None:
            tokenizer.normalizer = recipe.normalizer
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*recipe.steps, to_bytes])
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained = assemble(models.BPE())
    trained.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=450, initial_alphabet=alphabet, show_progress=False)
    )
    state = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    tokens = sorted(state["vocab"], key=state["vocab"].get)
    # Words that no merges lead to, as Llama 3's vocabulary has some.
    whole = ["Ġlighthouse", "ĠPoint", "Ġfolded"]
    assert not set(whole) & set(tokens)
    tokens += whole + CONTROL + USER_DEFINED
    types = [TokenType.NORMAL] * (len(tokens) - 5) + [TokenType.CONTROL] * 3 + [TokenType.USER_DEFINED] * 2
    vocabulary = {token: id for id, token in enumerate(tokens)}
    tokenizer = assemble(models.BPE(vocabulary, merges, ignore_merges=recipe.ignore_merges))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in USER_DEFINED])
    assert tokenizer.get_vocab_size() == len(tokens)
    assert recipe.ignore_merges == (vocabulary["ĠPoint"] in tokenizer.encode("at Skerry Point,").ids)
    return Original(tokenizer, tokens, types, "gpt2", merges=[" ".join(merge) for merge in merges], pre=pre)


def train_sentencepiece(vocab_size, byte_fallback, prefix, user_defined):
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=trained,
        model_type="bpe",
        vocab_size=vocab_size,
        character_coverage=0.98,
        byte_fallback=byte_fallback,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=False,
        control_symbols=CONTROL,
        user_defined_symbols=user_defined,
        num_threads=1,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    count = pieces.get_piece_size()
    scores = [pieces.get_score(id) for id in range(count)]

    def kind(id):
        if pieces.is_unknown(id):
            return TokenType.UNKNOWN
        if pieces.is_control(id):
            return TokenType.CONTROL
        if pieces.is_byte(id):
            return TokenType.BYTE
        return TokenType.USER_DEFINED if pieces.id_to_piece(id) in user_defined else TokenType.NORMAL

    types = [kind(id) for id in range(count)]
    # User-defined pieces are looked for in the text itself, so conversion to GGUF spells their spaces as spaces.
    tokens = [
        pieces.id_to_piece(id).replace("▁", " ") if types[id] == TokenType.USER_DEFINED else pieces.id_to_piece(id)
        for id in range(count)
    ]
    tokenizer = as_published(tokens, scores, types, byte_fallback, prefix)
    for text in PLAIN_TEXTS:
        theirs, ours = pieces.encode(text), tokenizer.encode(text, add_special_tokens=False).ids
        assert theirs == ours, (text, theirs, ours)
        if 0 not in ours:
            assert pieces.decode(ours) == tokenizer.decode(ours, skip_special_tokens=False), text
    return Original(tokenizer, tokens, types, "llama", scores=scores, add_space_prefix=prefix)


def as_published(tokens, scores, types, byte_fallback, prefix):
    """A SentencePiece model in the form in which the hub has Llama 2 and Gemma: with it, special tokens in a text count."""
    vocabulary = {token: id for id, token in enumerate(tokens)}
    merges = generate_merges(vocabulary, dict(zip(tokens, scores)))
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=byte_fallback)
    tokenizer = Tokenizer(model)
    mark = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), mark]) if prefix else mark
    show = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(show + [decoders.Strip(" ", 1, 0)] * prefix)
    special = (TokenType.UNKNOWN, TokenType.CONTROL)
    for token, kind in zip(tokens, types):
        if kind in special or kind == TokenType.USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False, special=kind in special)])
    assert tokenizer.get_vocab_size() == len(tokens)
    return tokenizer


def write(name, original):
    writer = gguf.GGUFWriter(FOLDER / f"{name}.gguf", "llama")
    writer.add_tokenizer_model(original.model)
    if original.pre is not None:
        writer.add_tokenizer_pre(original.pre)
    writer.add_token_list(original.tokens)
    writer.add_token_types(original.types)
    if original.merges is not None:
        writer.add_token_merges(original.merges)
    if original.scores is not None:
        writer.add_token_scores(original.scores)
        writer.add_add_space_prefix(original.add_space_prefix)
    writer.add_bos_token_id(original.tokens.index("<|im_start|>"))
    writer.add_eos_token_id(original.tokens.index("<|im_end|>"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    ids, decoded = [], []
    for text in TEXTS:
        ids.append(original.tokenizer.encode(text, add_special_tokens=False).ids)
        back = original.tokenizer.decode(ids[-1], skip_special_tokens=False)
        decoded.append(None if back == text else back)
    rows = [json.dumps(row, separators=(",", ":")) for row in ids]
    (FOLDER / f"{name}.json").write_text(
        '{\n"ids": [\n' + ",\n".join(rows) + '\n],\n"decoded": ' + json.dumps(decoded) + "\n}\n"
    )
    sizes = [(FOLDER / f"{name}.{kind}").stat().st_size / 1e3 for kind in ("gguf", "json")]
    changed = sum(back is not None for back in decoded)
    print(f"{name:<12} {sizes[0]:5.1f} + {sizes[1]:4.1f} kB, {sum(map(len, ids))} ids, {changed} texts come back changed")


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    texts = [json.dumps(text) for text in TEXTS]
    (FOLDER / "texts.json").write_text("[\n" + ",\n".join(texts) + "\n]\n")
    for pre in BYTE_LEVEL:
        write(pre, train_byte_level(pre))
    write("llama-2", train_sentencepiece(700, byte_fallback=True, prefix=True, user_defined=USER_DEFINED))
    # As in Gemma: runs of line breaks and spaces are tokens of their own.
    runs = ["\n\n", "\n\n\n", "\t\t", "▁▁", "▁▁▁", "▁▁▁▁"]
    write("gemma", train_sentencepiece(700, byte_fallback=True, prefix=False, user_defined=USER_DEFINED + runs))
    write("no-bytes", train_sentencepiece(400, byte_fallback=False, prefix=True, user_defined=USER_DEFINED))
    print(f"tokenizers {tokenizers.__version__}, sentencepiece {sentencepiece.__version__}")


if __name__ == "__main__":
    main()
