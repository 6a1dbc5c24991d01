"""Tiny models of every family: their specs, the models made from the specs, and the reference converter's answers.

Run from the repository's root, with a Python that has torch, transformers, tokenizers, sentencepiece and xxhash:

    python testdata/make/families.py specs [FAMILY…]        testdata/tokenizers/ and testdata/families/
    python testdata/make/families.py goldens [FAMILY…]      testdata/golden/families/, needs LLAMACPP
    python testdata/make/families.py write OUT [FAMILY…]    the models themselves, to OUT/FAMILY/ (numpy alone)
    python testdata/make/families.py list

No weights are kept. `testdata/families/FAMILY/` holds the config and `spec.json`: the tokenizer's folder, the name that the
reference converter must be told for its splitting, and a row `[name, dtype, shape, scale, offset]` a tensor. A weight's
value is a function of the tensor's name and the element's index alone, so that this script and the Rust tests
(`tests/it/families/model.rs`) make the same bytes:

    seed = FNV-1a, 64 bits, of the tensor's name in UTF-8
    r(i) = SplitMix64's output number i (from zero) for that seed: mix(seed + (i + 1) · 0x9E3779B97F4A7C15)
    f32, f16, bf16:  u = (r(i) >> 40) − 2²³ as f32, times 2⁻²³: uniform in [−1, 1), all 24 bits in use
                     value = u · scale + offset, each step rounded to f32, then rounded to the dtype (to nearest, ties to even)
    u8:              offset + (r(i) >> 40) mod scale
    f8_e4m3:         sign = bit 63 of r(i), magnitude code = (r(i) >> 40) mod 127: every number but NaN

Scales keep activations near 1; queries, keys and routers are stronger, norms vary around 1 (around 0 where the family adds one)
and biases around 0, so that a forgotten permutation, offset or bias moves the answer. `specs` checks that it does.
"""

import argparse
import base64
import collections
import functools
import hashlib
import json
import os
import pathlib
import re
import runpy
import shutil
import struct
import subprocess
import sys
import tempfile
import unicodedata

# Scripts here are called as the packages they use: this folder must not come before those.
HERE = pathlib.Path(__file__).resolve().parent
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != HERE]
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tests/clients"))
sys.dont_write_bytecode = True

import numpy as np  # noqa: E402

TOKENIZERS, FAMILIES_DIR = ROOT / "testdata/tokenizers", ROOT / "testdata/families"
GOLDEN = ROOT / "testdata/golden/families"
OUTTYPES = ("f32", "f16", "bf16", "q8_0")
VOCAB = 512

# ---------------------------------------------------------------- values
NUMPY = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16, "u8": np.uint8, "f8_e4m3": np.uint8}
IN_FILE = {"f32": "F32", "f16": "F16", "bf16": "BF16", "u8": "U8", "f8_e4m3": "F8_E4M3"}


def seed_of(name):
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = ((h ^ b) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def random64(name, count):
    """SplitMix64, vectorised."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed_of(name)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def bf16_bits(x):
    bits = x.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def values(name, dtype, shape, scale, offset):
    """The tensor as it lies in the file: bf16 as its bits in u16, f8 as bytes."""
    r = random64(name, int(np.prod(shape, dtype=np.int64)))
    m = (r >> np.uint64(40)).astype(np.int64)
    if dtype == "u8":
        return (int(offset) + m % int(scale)).astype(np.uint8).reshape(shape)
    if dtype == "f8_e4m3":
        return (((r >> np.uint64(63)).astype(np.uint8) << 7) | (m % 127).astype(np.uint8)).reshape(shape)
    u = (m - (1 << 23)).astype(np.float32) * np.float32(2.0**-23)
    x = u * np.float32(scale) + np.float32(offset)
    return (bf16_bits(x) if dtype == "bf16" else x.astype(NUMPY[dtype])).reshape(shape)


def spec_of(family):
    return json.loads((FAMILIES_DIR / family / "spec.json").read_text())


def write_shards(tensors, out):
    """Two safetensors shards and an index. Laid out by hand, since numpy has no bf16: names in the spec's order."""
    cut = (len(tensors) + 1) // 2
    where, total = {}, 0
    for number, part in enumerate((tensors[:cut], tensors[cut:]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        header, data = {"__metadata__": {"format": "pt"}}, []
        end = 0
        for name, dtype, shape, scale, offset in part:
            raw = values(name, dtype, shape, scale, offset).tobytes()
            header[name] = {"dtype": IN_FILE[dtype], "shape": shape, "data_offsets": [end, end + len(raw)]}
            end += len(raw)
            data.append(raw)
            where[name] = file
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        (out / file).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))
        total += end
    (out / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=1))


def write(family, root):
    """root/FAMILY: config, tokenizer, weights."""
    out = pathlib.Path(root, family)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    spec = spec_of(family)
    shutil.copy(FAMILIES_DIR / family / "config.json", out)
    for file in sorted((TOKENIZERS / spec["tokenizer"]).iterdir()):
        if file.name not in spec.get("without", []):
            shutil.copy(file, out)
    write_shards(spec["tensors"], out)
    return out


# ---------------------------------------------------------------- tokenizers
GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CASED = r"\p{Lu}\p{Ll}\p{Lt}"      # what the engine's deepseek-llm spells out range by range
DEEPSEEK3 = (r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
             r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def tokenizer_table():
    """Folder → (what makes it, the reference converter's name of the splitting or None)."""
    from tokenizers import Regex, pre_tokenizers as pre

    split = lambda pattern: pre.Split(Regex(pattern), "isolated")
    after = lambda *steps: pre.Sequence([*steps, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    digits = lambda: pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)])
    chat = ("<|begin|>", "<|user|>", "<|end|>")
    rows = {
        "gpt-2": (lambda: pre.ByteLevel(add_prefix_space=False), {"specials": ("<|endoftext|>",), "cls": "GPT2Tokenizer", "files": True}),
        "llama-bpe": (lambda: after(split(GPT4 % "{1,3}")), {"add_bos": True, "ignore_merges": True}),
        "smaug-bpe": (lambda: after(split(GPT4 % "{1,3}")), {}),
        "dbrx": (lambda: after(split(GPT4 % "{1,3}")), {}),
        "qwen2": (lambda: after(split(GPT4 % "")), {"nfc": True, "specials": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "bos": None,
                                                    "cls": "Qwen2Tokenizer", "pad": "<|endoftext|>"}),
        "starcoder": (digits, {}),
        "refact": (digits, {}),
        "deepseek-llm": (lambda: after(
            split(r"[\r\n]"), split(rf"\s?[{CASED}]+"),
            split("\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"),
            split(r"\s+$"), split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"), split(r"\p{N}+")), {"add_bos": True}),
        "deepseek-v3": (lambda: after(split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), split(DEEPSEEK3)),
                        {"add_bos": True}),
        "gpt-4o": (lambda: after(split(GPT4O)), {}),
        "llama4": (lambda: after(split(GPT4O)), {"add_bos": True}),
        "glm4": (lambda: after(split(GPT4 % "{1,3}")),
                 {"specials": ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
                  "bos": None, "eos": "<|endoftext|>"}),
        "roberta-bpe": (lambda: pre.ByteLevel(add_prefix_space=False), {"roberta": True}),
    }
    out = {kind: ((lambda d, k=kind, p=make, o=options: byte_bpe(d, p, o.get("specials", chat), **{x: y for x, y in o.items() if x != "specials"})), kind)
           for kind, (make, options) in rows.items()}
    out["llama-spm"] = (lambda d: spm(d, (0, 1, 2, -1)), None)
    # The engine looks up <|endoftext|> in any model whose name contains `phi3`, and refuses a vocabulary without it.
    out["phi3-spm"] = (lambda d: spm(d, (0, 1, 2, -1), specials=("<|endoftext|>", "<|assistant|>", "<|end|>")), None)
    out["gemma-spm"] = (lambda d: spm(d, (3, 2, 1, 0), prefix_space=False, specials=("<start_of_turn>", "<end_of_turn>")), None)
    out["wordpiece"] = (wordpiece, "bert-bge")        # asked for here too; WordPiece has one splitting only
    out["unigram"] = (unigram, None)
    return out


TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"


def save_fast(t, out, cls="PreTrainedTokenizerFast", template=None, decoder=False, **config):
    (out / "tokenizer.json").write_text(json.dumps(json.loads(t.to_str()), ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    config = {k: v for k, v in config.items() if v is not None}
    if decoder:                                       # as Google publishes it; without it the reference takes the two for plain words
        config["added_tokens_decoder"] = {str(a["id"]): {k: a[k] for k in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")}
                                          for a in json.loads(t.to_str())["added_tokens"]}
    # The template lies in either of its places, by kind.
    if template == "file":
        (out / "chat_template.jinja").write_text(TEMPLATE)
    elif template == "config":
        config["chat_template"] = TEMPLATE
    (out / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": cls, "model_max_length": 4096, **config}, indent=1) + "\n")


def byte_bpe(out, splitting, specials, bos="", eos="", add_bos=False, ignore_merges=False, nfc=False, roberta=False,
             cls="PreTrainedTokenizerFast", pad=None, files=False):
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers as pre, processors, trainers
    import texts

    bos, eos = specials[0] if bos == "" else bos, specials[-1] if eos == "" else eos
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    t.pre_tokenizer, t.decoder = splitting(), decoders.ByteLevel()
    if nfc:
        t.normalizer = normalizers.NFC()
    fairseq = ["<s>", "<pad>", "</s>", "<unk>"]
    count = 5 if roberta else len(specials)
    t.train_from_iterator(texts.corpus(), trainers.BpeTrainer(
        vocab_size=VOCAB - count, show_progress=False, initial_alphabet=sorted(pre.ByteLevel.alphabet())))
    if roberta:                                       # fairseq's order: four specials first, the mask last
        model = json.loads(t.to_str())["model"]
        vocab = {s: i for i, s in enumerate(fairseq)} | {k: v + 4 for k, v in model["vocab"].items()} | {"<mask>": VOCAB - 1}
        merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
        t.model = models.BPE(vocab, merges, unk_token=None)
        t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in (*fairseq, "<mask>")])
        t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
        save_fast(t, out, "RobertaTokenizerFast", bos_token="<s>", eos_token="</s>", sep_token="</s>", cls_token="<s>",
                  unk_token="<unk>", pad_token="<pad>", mask_token="<mask>", add_prefix_space=False)
        return
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    if files:                                         # the older form beside tokenizer.json, as most GPT-2s have it
        model = json.loads(t.to_str())
        vocab = model["model"]["vocab"] | {a["content"]: a["id"] for a in model["added_tokens"]}
        (out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
        (out / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["model"]["merges"]), encoding="utf-8")
    if add_bos:
        t.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, t.token_to_id(bos))])
    save_fast(t, out, cls, bos_token=bos, eos_token=eos, pad_token=pad, add_bos_token=add_bos, template="file" if nfc or ignore_merges else "config")


def train_sentencepiece(target, **options):
    """A SentencePiece model without this machine's paths in it (it would differ from run to run)."""
    import sentencepiece
    import texts
    from sentencepiece import sentencepiece_model_pb2

    with tempfile.TemporaryDirectory() as tmp:
        text = pathlib.Path(tmp, "t.txt")
        text.write_text("\n".join(l.replace("\n", " ") for l in texts.corpus()), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=tmp + "/m", num_threads=1, minloglevel=2, character_coverage=0.98,
            max_sentence_length=9999, **options)
        model = sentencepiece_model_pb2.ModelProto()
        model.ParseFromString(pathlib.Path(tmp, "m.model").read_bytes())
    model.trainer_spec.ClearField("input")
    model.trainer_spec.ClearField("model_prefix")
    target.write_bytes(model.SerializeToString(deterministic=True))
    return model


def spm(out, ids, prefix_space=True, specials=()):
    """A SentencePiece BPE model trained here, and the tokenizer.json that means the same."""
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    train_sentencepiece(out / "tokenizer.model", model_type="bpe", vocab_size=VOCAB, byte_fallback=True, add_dummy_prefix=prefix_space,
                        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
                        user_defined_symbols=list(specials), bos_piece="<s>" if prefix_space else "<bos>",
                        eos_piece="</s>" if prefix_space else "<eos>", **dict(zip(("unk_id", "bos_id", "eos_id", "pad_id"), ids)))
    sp = sentencepiece.SentencePieceProcessor(str(out / "tokenizer.model"))
    vocab = {sp.id_to_piece(i): i for i in range(len(sp))}
    score = {p: sp.get_score(i) for p, i in vocab.items()}
    plain = [p for p, i in vocab.items() if not (sp.is_control(i) or sp.is_unknown(i) or sp.is_byte(i) or p in specials)]
    merges = []                                  # a merge per way to split a piece in two known pieces, best piece first
    for p in sorted(plain, key=lambda p: -score[p]):
        ways = [(p[:k], p[k:]) for k in range(1, len(p)) if p[:k] in vocab and p[k:] in vocab]
        merges += sorted(ways, key=lambda w: (vocab[w[0]], vocab[w[1]]))
    t = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = ([normalizers.Prepend("▁")] if prefix_space else []) + [normalizers.Replace(" ", "▁")]
    t.normalizer = normalizers.Sequence(steps)
    tail = [decoders.Strip(" ", 1, 0)] if prefix_space else []
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *tail])
    controls = [sp.id_to_piece(i) for i in range(len(sp)) if sp.is_control(i) or sp.is_unknown(i)]
    t.add_special_tokens([AddedToken(c, special=True, normalized=False) for c in controls + list(specials)])
    gemma = "<bos>" in vocab
    bos = "<bos>" if gemma else "<s>"
    t.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, vocab[bos])])
    save_fast(t, out, "GemmaTokenizerFast" if gemma else "LlamaTokenizerFast", bos_token=bos, eos_token="<eos>" if gemma else "</s>",
              unk_token="<unk>", add_bos_token=True, add_eos_token=False, add_prefix_space=None if prefix_space else False, legacy=False,
              template="config" if specials else None, decoder=gemma)


def wordpiece(out):
    """Vocabulary by plain counting (the trainer's own order of ties varies from run to run): characters, words, word endings."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers as pre, processors
    import texts

    normal, cut = normalizers.BertNormalizer(lowercase=True), pre.BertPreTokenizer()
    words = collections.Counter(w for line in texts.corpus() for w, _ in cut.pre_tokenize_str(normal.normalize_str(line)))
    ordered = lambda counter: [k for k, _ in sorted(counter.items(), key=lambda kv: (-kv[1], kv[0]))]
    chars = ordered(collections.Counter(c for w in words.elements() for c in w))[:100]
    ends = ordered(collections.Counter("##" + w[-n:] for w in words for n in (2, 3, 4) if len(w) > n + 2))[:80]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(chars), *("##" + c for c in sorted(chars)), *ends]
    pieces += [w for w in ordered(words) if len(w) > 1][:VOCAB - len(pieces)]
    t = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer, t.decoder = normal, cut, decoders.WordPiece()
    t.add_special_tokens(pieces[:5])
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
                                                     special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    vocab = sorted(t.get_vocab().items(), key=lambda kv: kv[1])
    (out / "vocab.txt").write_text("".join(k + "\n" for k, _ in vocab), encoding="utf-8")
    save_fast(t, out, "BertTokenizerFast", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", mask_token="[MASK]",
              do_lower_case=True)


def nfkc_part():
    """Characters of a few blocks that NFKC changes, in order."""
    blocks = ((0xA0, 0x100), (0x2000, 0x2070), (0x2070, 0x20A0), (0x2100, 0x2190), (0x3000, 0x3001), (0xFB00, 0xFB07), (0xFDFA, 0xFDFB), (0xFF01, 0xFF5F),
              (0x1D400, 0x1D404))
    return [chr(c) for a, b in blocks for c in range(a, b) if unicodedata.normalize("NFKC", chr(c)) != chr(c)]


def unigram(out):
    """XLM-R's kind: SentencePiece unigram with an NFKC map; ids shifted as fairseq did (<s> <pad> </s> <unk> first)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers as pre, processors

    # NFKC's own map takes 600 kB in the two files, so a piece of it: what the test strings hold, and some more.
    with tempfile.TemporaryDirectory() as tmp:
        rules = pathlib.Path(tmp, "rules.tsv")
        rules.write_text("".join(f"{ord(c):X}\t{' '.join(f'{ord(x):X}' for x in unicodedata.normalize('NFKC', c))}\n" for c in nfkc_part()) +
                         "".join(f"{c:X}\t{to}\n" for c, to in ((0x9, "20"), (0xA, "20"), (0xD, "20"), (0x7F, ""), (0x200B, "20"), (0xFEFF, "20"))))
        m = train_sentencepiece(out / "sentencepiece.bpe.model", model_type="unigram", vocab_size=VOCAB - 4, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
                                normalization_rule_tsv=str(rules))
    m.normalizer_spec.ClearField("normalization_rule_tsv")
    m.normalizer_spec.name = "user_defined"
    (out / "sentencepiece.bpe.model").write_bytes(m.SerializeToString(deterministic=True))
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [(p.piece, p.score) for p in m.pieces[3:]] + [("<mask>", 0.0)]
    t = Tokenizer(models.Unigram(vocab, unk_id=3, byte_fallback=False))
    t.normalizer = normalizers.Precompiled(m.normalizer_spec.precompiled_charsmap)
    t.pre_tokenizer, t.decoder = pre.Sequence([pre.WhitespaceSplit(), pre.Metaspace()]), decoders.Metaspace()
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")])
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    save_fast(t, out, "XLMRobertaTokenizerFast", bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>", cls_token="<s>",
              sep_token="</s>", mask_token="<mask>")


# ---------------------------------------------------------------- families
B = dict(vocab_size=VOCAB, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
         num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False, pad_token_id=None)
TIED = dict(tie_word_embeddings=True)
SP = dict(bos_token_id=1, eos_token_id=2)
BP = dict(bos_token_id=VOCAB - 3, eos_token_id=VOCAB - 1)
GE = dict(bos_token_id=2, eos_token_id=1, pad_token_id=0)
GLM = dict(bos_token_id=None, eos_token_id=[VOCAB - 7, VOCAB - 3, VOCAB - 1], pad_token_id=VOCAB - 7)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)
MLA = dict(kv_lora_rank=64, qk_rope_head_dim=16, qk_nope_head_dim=32, v_head_dim=32, num_key_value_heads=4)
DEEP = dict(moe_intermediate_size=64, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, first_k_dense_replace=1, n_group=1, topk_group=1)
BERT = dict(vocab_size=VOCAB, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256)


class Family:
    """One row: transformers' class and config, the tokenizer's folder, the stored dtype, and what is particular.

    dialect   how config.json is edited after transformers wrote it
    disk      how names and shapes are edited: a list of (name, dtype, shape) to another
    without   files of the tokenizer's folder that this family lacks
    reference more arguments for the reference converter
    via       for a form that the reference converter refuses: a function that writes the same numbers in one that it takes
    load      how transformers gets the weights when it cannot read the directory as it is: a function of the directory
    """

    def __init__(self, model, config, tokenizer, dtype="bf16", *, dialect=None, disk=None, without=(), reference=(), via=None,
                 load=None, gelu=False, **kw):
        self.model, self.config, self.tokenizer, self.dtype, self.kw = model, config, tokenizer, dtype, kw
        self.dialect, self.disk, self.without, self.reference = dialect, disk, list(without), list(reference)
        self.via, self.load, self.gelu = via, load, gelu


def old_dialect(c, tie=None):
    """As transformers 4 wrote it: `rope_theta` and `rope_scaling` at the top, `torch_dtype`, no `layer_types`."""
    c = dict(c)
    rope = c.pop("rope_parameters", None)
    if rope:
        c["rope_theta"] = rope.pop("rope_theta", 10000.0)
        for k in ("partial_rotary_factor",):
            if k in rope:
                c[k] = rope.pop(k)
        c["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    c["torch_dtype"] = c.pop("dtype")
    c.pop("layer_types", None)
    c["transformers_version"] = "4.44.0"
    return c


def linear_type(c):
    """The oldest form of `rope_scaling`: `type` in place of `rope_type`."""
    c = old_dialect(c)
    c["rope_scaling"] = {"type": c["rope_scaling"]["rope_type"], "factor": c["rope_scaling"]["factor"]}
    return c


def published_gemma3(c):
    """As Google published it: what equals a default is left out, the heads included, and rope is in its old form."""
    t = c["text_config"]
    keep = ("hidden_size", "intermediate_size", "model_type", "num_hidden_layers", "sliding_window", "vocab_size", "max_position_embeddings")
    text = {k: t[k] for k in keep} | {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}}
    v = c["vision_config"]
    vision = {k: v[k] for k in ("hidden_size", "image_size", "intermediate_size", "model_type", "num_attention_heads", "num_hidden_layers", "patch_size")}
    return {"architectures": c["architectures"], "boi_token_index": 5, "eoi_token_index": 6, "eos_token_id": [1, 106], "image_token_index": 7,
            "initializer_range": 0.02, "mm_tokens_per_image": c["mm_tokens_per_image"], "model_type": "gemma3", "text_config": text,
            "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0", "vision_config": vision | {"vision_use_head": False}}


def renamed(*rules):
    return lambda rows: [(functools.reduce(lambda n, r: re.sub(*r, n), rules, name), dtype, shape) for name, dtype, shape in rows]


def fused_experts(inner, moe, gate, up, down, router=None):
    """Per-expert rows to one `gate_up_proj` [E, 2·ff, hidden] and one `down_proj` [E, hidden, ff] a layer, as transformers 5 holds them."""
    def edit(rows):
        out, seen = [], {}
        for name, dtype, shape in rows:
            m = re.fullmatch(rf"(.*\.){re.escape(inner)}\.experts\.(\d+)\.(\w+)\.weight", name)
            if router and name.endswith(router[0]):
                name = name.replace(router[0], router[1])
            if not m:
                out.append((name, dtype, shape))
                continue
            layer, expert, which = m[1], int(m[2]), m[3]
            seen.setdefault(layer, {})[(expert, which)] = shape
        for layer, experts in seen.items():
            count = 1 + max(e for e, _ in experts)
            g, d = experts[(0, gate)], experts[(0, down)]
            out.append((f"{layer}{moe}.experts.gate_up_proj", "bf16", [count, 2 * g[0], g[1]]))
            out.append((f"{layer}{moe}.experts.down_proj", "bf16", [count, *d]))
        return out
    return edit


def also(*edits):
    return lambda rows: functools.reduce(lambda r, e: e(r), edits, rows)


def f32_for(pattern):
    return lambda rows: [(n, "f32" if re.search(pattern, n) else d, s) for n, d, s in rows]


def mtp_layer(layer, like, hidden):
    """Rows of a multi-token-prediction layer after the last: a copy of layer `like`, its own embedding, head and projection."""
    def edit(rows):
        extra = [(n.replace(f"layers.{like}.", f"layers.{layer}."), d, s) for n, d, s in rows if f"layers.{like}." in n]
        p = f"model.layers.{layer}."
        extra += [(p + "eh_proj.weight", "bf16", [hidden, 2 * hidden]), (p + "enorm.weight", "bf16", [hidden]), (p + "hnorm.weight", "bf16", [hidden]),
                  (p + "embed_tokens.weight", "bf16", [VOCAB, hidden]), (p + "shared_head.head.weight", "bf16", [VOCAB, hidden]),
                  (p + "shared_head.norm.weight", "bf16", [hidden])]
        return rows + extra
    return edit


LINEAR = r"(self_attn|mlp)\..*proj.*\.weight$"


def block_fp8(rows):
    """DeepSeek's own form: e4m3 weights, a float32 `weight_scale_inv` per block of 128 × 128."""
    out = []
    for name, dtype, shape in rows:
        if re.search(LINEAR, name) and "eh_proj" not in name:
            out += [(name, "f8_e4m3", shape), (name + "_scale_inv", "f32", [-(-shape[0] // 128), -(-shape[1] // 128)])]
        else:
            out.append((name, dtype, shape))
    return out


def channel_fp8(rows):
    """compressed-tensors' `float-quantized`, one bf16 scale a row."""
    out = []
    for name, dtype, shape in rows:
        if re.search(LINEAR, name):
            out += [(name, "f8_e4m3", shape), (name + "_scale", "bf16", [shape[0], 1])]
        else:
            out.append((name, dtype, shape))
    return out


def tensor_fp8(rows):
    """ModelOpt's FP8: one f32 scale a tensor, and one of the activations that a converter has no use for."""
    out = []
    for name, dtype, shape in rows:
        if re.search(LINEAR, name):
            out += [(name, "f8_e4m3", shape), (name + "_scale", "f32", []), (name.replace(".weight", ".input_scale"), "f32", [])]
        else:
            out.append((name, dtype, shape))
    return out


def mxfp4(rows):
    """gpt-oss as published: expert weights in blocks of 32, [E, rows, blocks, 16] bytes of two codes and [E, rows, blocks] scales."""
    out = []
    for name, dtype, shape in rows:
        if re.search(r"experts\.(gate_up|down)_proj$", name):
            e, inputs, rows_out = shape
            out += [(name + "_blocks", "u8", [e, rows_out, inputs // 32, 16]), (name + "_scales", "u8", [e, rows_out, inputs // 32])]
        else:
            out.append((name, dtype, shape))
    return out


def quantised(config):
    return lambda c: {**c, "quantization_config": config}


def v3_config(c):
    """The published keys that transformers 5 names otherwise or does without."""
    c = dict(c)
    c["num_nextn_predict_layers"] = c.pop("num_mtp_layers", 1)
    if c["model_type"] == "deepseek_v3":
        c |= {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
    return c


CT_FP8 = {
    "config_groups": {"group_0": {"format": "float-quantized", "input_activations": {
        "actorder": None, "block_structure": None, "dynamic": True, "group_size": None, "num_bits": 8, "observer": None, "observer_kwargs": {},
        "strategy": "token", "symmetric": True, "type": "float"}, "output_activations": None, "targets": ["Linear"], "weights": {
        "actorder": None, "block_structure": None, "dynamic": False, "group_size": None, "num_bits": 8, "observer": "minmax", "observer_kwargs": {},
        "strategy": "channel", "symmetric": True, "type": "float"}}},
    "format": "float-quantized", "global_compression_ratio": None, "ignore": ["lm_head"], "kv_cache_scheme": None,
    "quant_method": "compressed-tensors", "quantization_status": "compressed"}

OPT_FP8 = {"config_groups": {"group_0": {"input_activations": {"dynamic": False, "num_bits": 8, "type": "float"},
                                        "weights": {"dynamic": False, "num_bits": 8, "type": "float"}, "targets": ["Linear"]}},
           "ignore": ["lm_head"], "quant_algo": "FP8", "producer": {"name": "modelopt", "version": "0.29.0"}, "quant_method": "modelopt"}


def table():
    F = Family
    ll = lambda **kw: {**B, **SP, **kw}
    bp = lambda **kw: {**B, **BP, **kw}
    L, LC = "LlamaForCausalLM", "LlamaConfig"
    mixtral = ll(num_hidden_layers=1, num_local_experts=4, num_experts_per_tok=2, sliding_window=None)
    qwen3moe = bp(num_hidden_layers=1, intermediate_size=512, head_dim=32, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=256,
                  norm_topk_prob=True)
    # The engine takes a model for the one without q_lora by its 27 layers.
    lite = bp(**MLA, **DEEP) | dict(topk_method="greedy", routed_scaling_factor=1.0, norm_topk_prob=False, num_hidden_layers=27, hidden_size=64,
                                    intermediate_size=64, num_attention_heads=2, num_key_value_heads=2, kv_lora_rank=32, qk_nope_head_dim=16,
                                    v_head_dim=16, first_k_dense_replace=26, moe_intermediate_size=32)
    v2 = bp(**MLA, **DEEP) | dict(topk_method="greedy", routed_scaling_factor=1.5, norm_topk_prob=False)
    v3 = bp(**MLA, **DEEP) | dict(q_lora_rank=48, routed_scaling_factor=2.5, norm_topk_prob=True, n_group=2, topk_group=1,
                                  rope_parameters={**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1})
    g3 = {**B, **GE, **TIED, "num_hidden_layers": 6, "hidden_size": 64, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8}
    # `truncate` is false as published. The engine does not know it and rounds the two bounds of yarn's ramp: with this base both lie outside
    # the dimensions, where rounding does not matter.
    oss = bp(hidden_size=64, intermediate_size=96, head_dim=32, num_local_experts=4, num_experts_per_tok=2, sliding_window=8,
             rope_parameters={**YARN, "rope_theta": 3.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False})
    l4 = bp(num_hidden_layers=4, head_dim=32, intermediate_size=96, intermediate_size_mlp=256, num_local_experts=4, num_experts_per_tok=1,
            interleave_moe_layer_step=2, use_qk_norm=True, attn_temperature_tuning=True, attention_chunk_size=64, floor_scale=64,
            rope_parameters=LLAMA3)
    phi = {**B, **SP, "pad_token_id": 0, "sliding_window": None}
    qwen2 = bp(vocab_size=544, **TIED) | dict(sliding_window=None)
    factors = lambda a, b: [round(a + b * i, 3) for i in range(16)]
    vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14,
                  vision_use_head=False)
    return {
        "llama": F(L, LC, "llama-spm", **ll()),
        "llama-hf": F(L, LC, "llama-spm", without=["tokenizer.model"], **ll()),
        "llama-tied": F(L, LC, "llama-spm", **ll(**TIED)),
        "llama-head-dim": F(L, LC, "llama-spm", **ll(head_dim=48)),
        "llama-linear": F(L, LC, "llama-spm", dialect=linear_type, **ll(rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=20000.0))),
        "llama-yarn": F(L, LC, "llama-spm", **ll(rope_parameters=YARN)),
        "llama-fp8-channel": F(L, LC, "llama-spm", dialect=quantised(CT_FP8), disk=channel_fp8, load=dequantised, **ll()),
        "llama-fp8-tensor": F(L, LC, "llama-spm", dialect=quantised(OPT_FP8), disk=tensor_fp8, load=dequantised, **ll()),
        "llama3-rope": F(L, LC, "llama-bpe", **bp(**TIED, attention_bias=True, rope_parameters=LLAMA3)),
        "llama3-old": F(L, LC, "llama-bpe", dialect=old_dialect, **bp(head_dim=48, rope_parameters=LLAMA3)),
        "mistral": F("MistralForCausalLM", "MistralConfig", "llama-spm", **ll(head_dim=16, sliding_window=None)),
        "mixtral": F("MixtralForCausalLM", "MixtralConfig", "llama-spm", **mixtral),
        "mixtral-fused": F("MixtralForCausalLM", "MixtralConfig", "llama-spm", via=mixtral_per_expert, disk=fused_experts(
            "block_sparse_moe", "mlp", "w1", "w3", "w2", ("block_sparse_moe.gate.weight", "mlp.gate.weight")), **mixtral),
        "qwen2": F("Qwen2ForCausalLM", "Qwen2Config", "qwen2", **qwen2),
        "qwen2-old": F("Qwen2ForCausalLM", "Qwen2Config", "qwen2", dialect=old_dialect, **qwen2),
        "qwen3": F("Qwen3ForCausalLM", "Qwen3Config", "qwen2", **bp(head_dim=48)),
        "qwen3_moe": F("Qwen3MoeForCausalLM", "Qwen3MoeConfig", "qwen2", **qwen3moe),
        "qwen3_moe-fused": F("Qwen3MoeForCausalLM", "Qwen3MoeConfig", "qwen2", disk=fused_experts("mlp", "mlp", "gate_proj", "up_proj", "down_proj"),
                             **qwen3moe),
        "gemma2": F("Gemma2ForCausalLM", "Gemma2Config", "gemma-spm", gelu=True, **{**B, **GE, **TIED}, head_dim=48, query_pre_attn_scalar=48,
                    sliding_window=8),
        "gemma3": F("Gemma3ForCausalLM", "Gemma3TextConfig", "gemma-spm", gelu=True, **g3),
        "gemma3-vision": F("Gemma3ForConditionalGeneration", "Gemma3Config", "gemma-spm", gelu=True, dialect=published_gemma3, disk=renamed(
            (r"^model\.language_model\.", "language_model.model."), (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
            (r"^vision_tower\.(?!vision_model)", "vision_tower.vision_model.")),
            text_config={**{k: v for k, v in g3.items() if k not in ("num_attention_heads", "num_key_value_heads", "head_dim", "query_pre_attn_scalar")},
                         "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256, "hidden_size": 64},
            vision_config=vision, mm_tokens_per_image=4, image_token_index=7, boi_token_index=5, eoi_token_index=6),
        "gemma3-vision-v5": F("Gemma3ForConditionalGeneration", "Gemma3Config", "gemma-spm", gelu=True, text_config=g3, vision_config=vision,
                              mm_tokens_per_image=4, image_token_index=7, boi_token_index=5, eoi_token_index=6),
        "phi3": F("Phi3ForCausalLM", "Phi3Config", "phi3-spm", original_max_position_embeddings=256, **phi),
        "phi3-longrope": F("Phi3ForCausalLM", "Phi3Config", "phi3-spm", **{**phi, "max_position_embeddings": 1024},
                           # The engine takes contexts in multiples of 256, and the long factors beyond the original length.
                           original_max_position_embeddings=256, rope_parameters=dict(
            rope_type="longrope", rope_theta=10000.0, short_factor=factors(1.0, 0.02), long_factor=factors(1.1, 0.25))),
        "gpt2": F("GPT2LMHeadModel", "GPT2Config", "gpt-2", "f32", gelu=True, vocab_size=VOCAB, n_positions=64, n_embd=64, n_layer=2, n_head=2,
                  n_ctx=64, bos_token_id=VOCAB - 1, eos_token_id=VOCAB - 1),
        "gpt2-files": F("GPT2LMHeadModel", "GPT2Config", "gpt-2", "f32", gelu=True, without=["tokenizer.json"], vocab_size=VOCAB, n_positions=64,
                        n_embd=64, n_layer=2, n_head=2, n_ctx=64, bos_token_id=VOCAB - 1, eos_token_id=VOCAB - 1),
        "starcoder2": F("Starcoder2ForCausalLM", "Starcoder2Config", "starcoder", "f16", gelu=True, **bp(**TIED, sliding_window=None)),
        "olmo2": F("Olmo2ForCausalLM", "Olmo2Config", "dbrx", **bp()),
        "granite": F("GraniteForCausalLM", "GraniteConfig", "refact", **bp(**TIED), embedding_multiplier=3.0, residual_multiplier=0.7,
                     attention_multiplier=0.11, logits_scaling=2.0),
        "smollm3": F("SmolLM3ForCausalLM", "SmolLM3Config", "smaug-bpe", no_rope_layer_interval=4,
                     **bp(**TIED, num_hidden_layers=4, hidden_size=64, pad_token_id=VOCAB - 1)),
        "deepseek_v2": F("DeepseekV2ForCausalLM", "DeepseekV2Config", "deepseek-llm", q_lora_rank=48, **v2),
        "deepseek_v2-lite": F("DeepseekV2ForCausalLM", "DeepseekV2Config", "deepseek-llm", q_lora_rank=None, **lite),
        "deepseek_v3": F("DeepseekV3ForCausalLM", "DeepseekV3Config", "deepseek-v3", dialect=v3_config,
                         disk=also(f32_for("e_score_correction_bias"), mtp_layer(2, 1, 128)), **v3),
        "deepseek_v3-fp8": F("DeepseekV3ForCausalLM", "DeepseekV3Config", "deepseek-v3", dialect=lambda c: quantised(
            {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]})(old_dialect(v3_config(c))),
            disk=also(f32_for("e_score_correction_bias"), mtp_layer(2, 1, 192), block_fp8), load=dequantised,
            **{**v3, "hidden_size": 192, "intermediate_size": 320}),
        "glm4_moe": F("Glm4MoeForCausalLM", "Glm4MoeConfig", "glm4", disk=also(f32_for("e_score_correction_bias"), mtp_layer(2, 1, 128)),
                      dialect=v3_config, reference=["--no-nextn"], **{**B, **GLM}, **DEEP, head_dim=32, use_qk_norm=True, attention_bias=True,
                      norm_topk_prob=True, routed_scaling_factor=1.5, rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5)),
        "gpt_oss": F("GptOssForCausalLM", "GptOssConfig", "gpt-4o", dialect=quantised({"modules_to_not_convert": [
            "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"], "quant_method": "mxfp4"}), disk=mxfp4, load=dequantised, **oss),
        "gpt_oss-bf16": F("GptOssForCausalLM", "GptOssConfig", "gpt-4o", **oss),
        "llama4": F("Llama4ForCausalLM", "Llama4TextConfig", "llama4", **l4),
        "llama4-vision": F("Llama4ForConditionalGeneration", "Llama4Config", "llama4", text_config=l4, boi_token_index=5, eoi_token_index=6, image_token_index=7,
                           vision_config=dict(hidden_size=32, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14,
                                              vision_output_dim=64, projector_input_dim=64, projector_output_dim=64)),
        "bert": F("BertModel", "BertConfig", "wordpiece", "f32", gelu=True, **BERT, max_position_embeddings=64),
        "bert-old": F("BertModel", "BertConfig", "wordpiece", "f32", gelu=True, disk=bert_old, dialect=lambda c: {
            **old_dialect(c), "architectures": ["BertForMaskedLM"]}, **BERT, max_position_embeddings=64),
        "roberta": F("RobertaModel", "RobertaConfig", "roberta-bpe", "f32", gelu=True, **BERT, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1,
                     bos_token_id=0, eos_token_id=2),
        "xlm-roberta": F("XLMRobertaModel", "XLMRobertaConfig", "unigram", "f32", gelu=True, **BERT, max_position_embeddings=66, type_vocab_size=1,
                         pad_token_id=1, bos_token_id=0, eos_token_id=2),
    }


def bert_old(rows):
    """As Google's own checkpoints lie on the hub: `bert.` before the names, `gamma` and `beta`, the heads of pretraining."""
    out = [("bert." + n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"), d, s) for n, d, s in rows]
    return out + [("cls.predictions.bias", "f32", [VOCAB]), ("cls.predictions.transform.dense.weight", "f32", [128, 128]),
                  ("cls.predictions.transform.dense.bias", "f32", [128]), ("cls.predictions.transform.LayerNorm.gamma", "f32", [128]),
                  ("cls.predictions.transform.LayerNorm.beta", "f32", [128]), ("cls.seq_relationship.weight", "f32", [2, 128]),
                  ("cls.seq_relationship.bias", "f32", [2])]


# ---------------------------------------------------------------- scales
STRONG = ("q_proj", "k_proj", "query", "key", "qkv", "c_attn", "q_b", "kv_a")


def scale_of(name, dtype, shape, family):
    """(scale, offset) of a row, see the head of this file."""
    gemma = "Gemma" in family.model
    if dtype == "f8_e4m3":
        return 0, 0
    if name.endswith("_blocks"):
        return 256, 0
    if name.endswith("_scales"):
        return 4, 121
    gain = 2.0 if any(k in name for k in STRONG) else 3.0 if "gate.weight" in name or "router" in name else 1.0
    if re.search(r"weight_scale(_inv)?$|input_scale$", name):
        # The numbers of e4m3, each code alike, have a root mean square of 107.
        mean = gain / (107.0 * family.kw["hidden_size"] ** 0.5)
        return digits(mean / 2), digits(mean)
    if name.endswith(("bias", "beta")) or (len(shape) == 1 and not name.endswith(("weight", "gamma"))):
        return 0.35, 0
    if len(shape) == 1:
        return 0.35, 0 if gemma else 1
    tied = family.kw.get("tie_word_embeddings") or family.kw.get("text_config", {}).get("tie_word_embeddings")
    if "embed" in name or name.split(".")[-2] in ("wte", "wpe"):
        return (0.26 if "embed_tokens" in name and tied else 0.87), 0
    conv1d = family.model.startswith("GPT2") and ".c_" in name
    transposed = len(shape) == 3 and family.model.startswith(("GptOss", "Llama4"))
    fan_in = shape[0] if conv1d else shape[1] if transposed else shape[-1] if len(shape) <= 3 else int(np.prod(shape[1:]))
    return digits(1.7320508 * gain / fan_in**0.5), 0


def digits(x):
    return float(f"{x:.3g}")


# ---------------------------------------------------------------- transformers' answers
def dequantised(source, out):
    """A directory that transformers reads without any quantiser: float32 weights, computed here with torch."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    state = {}
    for f in sorted(source.glob("model-*.safetensors")):
        with safe_open(f, "pt") as s:
            state |= {k: s.get_tensor(k) for k in s.keys()}
    done = {}
    for k, w in state.items():
        if k.endswith(("_scale_inv", "_scale", "_scales", "input_scale")):
            continue
        if k + "_scale_inv" in state:
            s = state[k + "_scale_inv"].repeat_interleave(128, 0).repeat_interleave(128, 1)[:w.shape[0], :w.shape[1]]
            done[k] = w.float() * s
        elif k + "_scale" in state:
            done[k] = w.float() * state[k + "_scale"].float()
        elif k.endswith("_blocks"):
            from transformers.integrations.mxfp4 import convert_moe_packed_tensors
            name = k.removesuffix("_blocks")
            done[name] = convert_moe_packed_tensors(w, state[name + "_scales"], dtype=torch.float32)
        else:
            done[k] = w.float()
    out.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in done.items()}, out / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config.pop("quantization_config")
    (out / "config.json").write_text(json.dumps(config))
    return out


def mixtral_per_expert(source, out):
    """transformers 5's fused experts as the reference converter knows them, one tensor an expert."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"), dirs_exist_ok=True)
    done = {}
    for f in sorted(source.glob("model-*.safetensors")):
        with safe_open(f, "pt") as s:
            for k in s.keys():
                w, moe = s.get_tensor(k), k.split(".mlp.")[0] + ".block_sparse_moe"
                if k.endswith("gate_up_proj"):
                    for e, both in enumerate(w):
                        done[f"{moe}.experts.{e}.w1.weight"], done[f"{moe}.experts.{e}.w3.weight"] = (h.clone() for h in both.chunk(2))
                elif k.endswith("down_proj"):
                    done |= {f"{moe}.experts.{e}.w2.weight": d.clone() for e, d in enumerate(w)}
                else:
                    done[k.replace(".mlp.gate.", ".block_sparse_moe.gate.")] = w
    save_file(done, out / "model.safetensors", {"format": "pt"})
    return out


def load_model(family, directory, tmp):
    import torch
    import transformers as tf

    tf.logging.set_verbosity_error()
    tf.logging.disable_progress_bar()
    path = family.load(directory, pathlib.Path(tmp, "plain")) if family.load else directory
    model, info = getattr(tf, family.model).from_pretrained(path, dtype=torch.float32, output_loading_info=True, attn_implementation="eager")
    lost = {k: sorted(info[k]) for k in ("missing_keys", "unexpected_keys", "mismatched_keys") if info.get(k)}
    missing = [k for k in lost.get("missing_keys", []) + [str(m) for m in lost.get("mismatched_keys", [])] if "pooler" not in k]
    unexpected = [k for k in lost.get("unexpected_keys", []) if not k.startswith("cls.") and ".layers.2." not in k]
    if missing or unexpected:
        raise ValueError(f"transformers does not take these weights: {missing} missing, {unexpected} not known")
    return model.eval()


def input_ids(family):
    import torch

    r = random64(f"{family}: input_ids", 48)
    return torch.from_numpy((8 + (r >> np.uint64(40)).astype(np.int64) % (VOCAB - 16)).reshape(2, 24))


def answer(model, ids):
    import torch

    with torch.no_grad():
        out = model(input_ids=ids)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def sensitivity(model, ids, base, gemma):
    """Smallest relative change of the answer when one parameter's neutral value is put back; the name of that parameter."""
    import torch

    worst = (float("inf"), "")
    change = lambda: ((answer(model, ids) - base).abs().max() / base.abs().max()).item()
    params = [(n, p) for n, p in model.named_parameters() if not re.search("pooler|vision|multi_modal", n)]
    for name, p in params:
        # A key's bias shifts all scores of a query alike and does cancel where no rope follows.
        if p.ndim != 1 or name.endswith(("key.bias", "k_proj.bias")):
            continue
        saved = p.detach().clone()
        with torch.no_grad():
            p.fill_(1.0 if name.endswith("weight") and not gemma else 0.0)
            worst = min(worst, (change(), name))
            p.copy_(saved)
    rows = [(n, p) for n, p in params if n.endswith(("q_proj.weight", "k_proj.weight")) and p.ndim == 2]
    config = model.config.get_text_config()
    if rows and hasattr(config, "num_key_value_heads"):
        saved = [p.detach().clone() for _, p in rows]
        with torch.no_grad():                    # what a forgotten (or needless) rotary permutation would do
            for n, p in rows:
                heads = config.num_attention_heads if "q_proj" in n else config.num_key_value_heads
                p.copy_(p.view(heads, 2, -1, p.shape[-1]).transpose(1, 2).reshape(p.shape))
            worst = min(worst, (change(), "rotary permutation"))
            for (_, p), s in zip(rows, saved):
                p.copy_(s)
    return worst


# ---------------------------------------------------------------- specs
def rows_of(family):
    """What transformers writes for this model: config and (name, dtype, shape) rows."""
    import torch
    import transformers as tf
    from safetensors import safe_open

    torch.manual_seed(0)
    model = getattr(tf, family.model)(getattr(tf, family.config)(**family.kw))
    model.config.dtype = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}[family.dtype]
    with tempfile.TemporaryDirectory() as tmp:
        model.to(torch.bfloat16).save_pretrained(tmp)
        config = json.loads(pathlib.Path(tmp, "config.json").read_text())
        rows = []
        for f in pathlib.Path(tmp).glob("*.safetensors"):
            with safe_open(f, "pt") as s:
                rows += [(k, family.dtype, list(s.get_slice(k).get_shape())) for k in s.keys()]
    config["dtype"] = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}[family.dtype]
    natural = lambda row: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", row[0])]
    return config, sorted(rows, key=natural)


def make_spec(name, family, pre):
    config, rows = rows_of(family)
    if family.disk:
        rows = family.disk(rows)
    if family.dialect:
        config = family.dialect(config)
    out = FAMILIES_DIR / name
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    spec = {"tokenizer": family.tokenizer, "pre": pre, "gelu": family.gelu}
    spec |= {k: v for k, v in (("without", family.without), ("reference", family.reference)) if v}
    tensors = [[n, d, s, *scale_of(n, d, s, family)] for n, d, s in rows]
    head = json.dumps(spec)[:-1]
    lines = ",\n".join("  " + json.dumps(t, separators=(",", ":")) for t in tensors)
    (out / "spec.json").write_text(f'{head}, "tensors": [\n{lines}\n]}}\n')
    with tempfile.TemporaryDirectory() as tmp:
        model = load_model(family, write(name, tmp), tmp)
        ids = input_ids(name)
        base = answer(model, ids)
        change, where = sensitivity(model, ids, base, "Gemma" in family.model)
    size = sum(int(np.prod(s)) for _, _, s in rows)
    print(f"{name:18} {len(rows):3} tensors {size / 1e3:7.0f} k values  std {base.std():5.2f}  least change {change:.1e} ({where})", flush=True)
    if not (base.isfinite().all() and 0.2 < base.std() < 40 and change > 1e-3):
        raise SystemExit(f"{name}: a dull model: std {base.std():.3g}, neutral `{where}` moves it by only {change:.2g}")


def make_specs(names):
    import torch

    torch.set_num_threads(1)
    families, kinds = table(), tokenizer_table()
    names = names or list(families)
    for kind in sorted({families[n].tokenizer for n in names}):
        out = TOKENIZERS / kind
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        kinds[kind][0](out)
    failed = []
    for name in names:
        try:
            make_spec(name, families[name], kinds[families[name].tokenizer][1])
        except (Exception, SystemExit) as e:
            failed.append(name)
            print(f"{name}: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
    if failed:
        sys.exit(f"failed: {' '.join(failed)}")


# ---------------------------------------------------------------- goldens
def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def read_gguf(path):
    """({key: [type, value] or ["array of type", count, digest]}, [[name, ne, type, digest]]), read by gguf-py."""
    import gguf

    reader = gguf.GGUFReader(str(path))
    keys = {}
    for field in reader.fields.values():
        if field.name.startswith("GGUF."):
            continue
        kinds = [t.name.lower() for t in field.types]
        if kinds[0] == "array":
            parts = [field.parts[i].tobytes() for i in field.data]
            if kinds[1] == "string":
                parts = [struct.pack("<Q", len(p)) + p for p in parts]
            keys[field.name] = [f"array of {kinds[1]}", len(field.data), digest(b"".join(parts))]
        else:
            value = field.contents()
            keys[field.name] = [kinds[0], value if len(str(value)) < 200 else {"digest": digest(str(value).encode())}]
    tensors = [[t.name, [int(d) for d in t.shape], t.tensor_type.name.lower(), digest(t.data.tobytes())] for t in reader.tensors]
    return keys, tensors


def array_key(kind, items):
    parts = [struct.pack("<Q", len(t.encode())) + t.encode() if kind == "string" else struct.pack({"int32": "<i", "float32": "<f"}[kind], t) for t in items]
    return [f"array of {kind}", len(items), digest(b"".join(parts))]


# Where the reference is wrong about a tokenizer: family → (what tokenizer.json says in its place, why). See `amend`.
AMENDED = {
    "llama-hf": "without tokenizer.model the reference makes `<unk>` a control token; with it both say unknown",
    "xlm-roberta": "the reference reads the SentencePiece model, which lacks `<mask>`, and numbers padding rows one too low",
}


def amend(name, path):
    """Keys of the reference's file as they ought to be: by tokenizer.json, for the families of `AMENDED`."""
    if name not in AMENDED:
        return {}
    import gguf

    reader = gguf.GGUFReader(str(path))
    read = lambda key: reader.get_field(f"tokenizer.ggml.{key}").contents()
    tokens, types = read("tokens"), read("token_type")
    if name == "llama-hf":
        types[tokens.index("<unk>")] = 2
        return {"tokenizer.ggml.token_type": array_key("int32", types)}
    scores = read("scores")
    vocab = json.loads((TOKENIZERS / spec_of(name)["tokenizer"] / "tokenizer.json").read_text())["model"]["vocab"]
    mask = len(vocab) - 1
    tokens[mask:] = ["<mask>"] + [f"[PAD{i}]" for i in range(mask + 1, len(tokens))]
    types[mask], scores[mask] = 3, vocab[mask][1]
    return {"tokenizer.ggml.tokens": array_key("string", tokens), "tokenizer.ggml.token_type": array_key("int32", types),
            "tokenizer.ggml.scores": array_key("float32", scores)}


def versions():
    import safetensors
    import tokenizers
    import torch
    import transformers

    return {m.__name__: str(m.__version__) for m in (torch, transformers, tokenizers, safetensors)} | {"llama.cpp": "0c1e5709"}


def reference_jobs(name, model_dir, out, spec):
    return [{"args": [model_dir, "--outfile", out / f"{name}.{t}.gguf", "--outtype", t, *spec.get("reference", [])], "pre": spec["pre"],
             "log": out / f"{name}.{t}.log"} for t in OUTTYPES]


def make_goldens(names, keep=None):
    from convert_reference import last_line, run_jobs, script_of

    script_of(os.environ.get("LLAMACPP"))        # its gguf-py goes before the installed one, so before torch and transformers
    import torch

    torch.set_num_threads(1)
    GOLDEN.mkdir(parents=True, exist_ok=True)
    families = table()
    problems = []
    for name in names or list(families):
        spec = spec_of(name)
        with tempfile.TemporaryDirectory() as tmp:
            out = pathlib.Path(keep) if keep else pathlib.Path(tmp)
            model_dir = write(name, tmp)
            ids = input_ids(name)
            got = answer(load_model(families[name], model_dir, tmp), ids).float()
            source = hashlib.sha256()
            for row in spec["tensors"]:
                source.update(values(*row).tobytes())
            golden = {"versions": versions(), "source": source.hexdigest()[:16], "answer": {
                "of": "logits" if got.shape[-1] >= VOCAB else "hidden", "shape": list(got.shape), "input_ids": ids.tolist(),
                "last_position_f32_base64": base64.b64encode(got[:, -1].contiguous().numpy().tobytes()).decode()}}
            via = families[name].via
            jobs = reference_jobs(name, via(model_dir, pathlib.Path(tmp, "via", name)) if via else model_dir, out, spec)
            failed = run_jobs(jobs)
            if failed:
                problems.append(f"{name}: the reference refuses: {last_line(jobs[failed[0]]['log'])}")
            else:
                if via:
                    golden["via"] = via.__name__
                read = {t: read_gguf(out / f"{name}.{t}.gguf") for t in OUTTYPES}
                for t in OUTTYPES:
                    read[t][0].update(amend(name, out / f"{name}.{t}.gguf"))
                if name in AMENDED:
                    golden["amended"] = AMENDED[name]
                keys, tensors = read["f32"]
                golden["keys"] = keys
                golden["tensors"] = [[n, ne] for n, ne, _, _ in tensors]
                golden["types"] = {}
                for t, (k, rows) in read.items():
                    if [[n, ne] for n, ne, _, _ in rows] != golden["tensors"]:
                        problems.append(f"{name}: {t} holds other tensors than f32")
                    golden["types"][t] = {"keys": {x: v for x, v in k.items() if keys.get(x) != v},
                                          "tensors": [f"{kind} {d}" for _, _, kind, d in rows]}
        text = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
        (GOLDEN / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        print(f"{name:18} {len(golden.get('tensors', [])):3} tensors, {len(text) / 1e3:.1f} kB", flush=True)
    if problems:
        sys.exit("\n".join(problems))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(dest="what", required=True)
    p = sub.add_parser("specs")
    p.add_argument("families", nargs="*")
    p = sub.add_parser("goldens")
    p.add_argument("families", nargs="*")
    p.add_argument("--keep", help="leave the reference's GGUFs and logs in this folder")
    p = sub.add_parser("write")
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("families", nargs="*")
    sub.add_parser("list")
    args = ap.parse_args()
    if args.what == "specs":
        make_specs(args.families)
    elif args.what == "goldens":
        make_goldens(args.families, args.keep)
    elif args.what == "write":
        for name in args.families or sorted(p.parent.name for p in FAMILIES_DIR.glob("*/spec.json")):
            print(write(name, args.out))
    else:
        print("\n".join(table()))


if __name__ == "__main__":
    main()
