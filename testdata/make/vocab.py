"""Writes testdata/golden/vocab.json: small tokenizers of every kind, and the keys that llama.cpp's converter makes of them.

Run as `python testdata/make/vocab.py LLAMACPP` from the root of the repository, where LLAMACPP holds `convert/` (the
converter, unchanged, with gguf-py), `bin/libllama.so` and `python/llama_cpp` (its ctypes binding). Tokenizers are made by
the tokenizers and sentencepiece libraries; the converter runs with `--vocab-only`. It knows published tokenizers by a
hash and none of these, so that one question is answered for it (`pre`); nothing else is touched.

`pre` in the golden: how published tokenizers cut text, each put into the same small vocabulary, and how many of `texts`
the tokenizers library and llama.cpp tokenise alike under that name.
"""

import base64
import json
import os
import pathlib
import runpy
import sys
import tempfile
import traceback

# A file beside this one may have the name of a package that is imported.
sys.path.pop(0)

ROOT = pathlib.Path(__file__).resolve().parent.parent
LLAMACPP = pathlib.Path(sys.argv[1]).resolve()
sys.path[:0] = [str(LLAMACPP / "convert"), str(LLAMACPP / "convert" / "gguf-py")]

import gguf
import sentencepiece
import tokenizers
import transformers
from conversion import base
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "the weights of a model are moved from where they are to where they run",
    "a tensor has a name, a type and a shape; its bytes lie in a file",
    "The reader's checks: 12 of 345 rows were read, 6789 were not (it's fine).",
    "def load(path):\n    return open(path).read()",
    "straße, naïve, garçon — 日本語 и русский",
] * 4
SIZES = dict(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, intermediate_size=64,
             max_position_embeddings=128, rms_norm_eps=1e-5, head_dim=32)
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def special(text, **more):
    return AddedToken(text, special=True, normalized=False, **more)


# ---------------------------------------------------------------- how text is cut
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
GPT4 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s")
O200K = WORDS % ((CONTRACTIONS + "?",) * 2) + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DEEPSEEK = ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
            "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def then_bytes(*steps):
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def bytes_and_words():
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


# model, its architecture in GGUF, whether it takes whole words first, the name, the pre-tokenizer of its tokenizer.json
PUBLISHED = [
    ("Llama 3", "llama", True, "llama-bpe", lambda: then_bytes(split(GPT4 % r"\p{N}{1,3}"))),
    ("SmolLM3", "smollm3", False, "smaug-bpe", lambda: then_bytes(split(GPT4 % r"\p{N}{1,3}"))),
    ("OLMo 2", "olmo2", False, "dbrx", lambda: then_bytes(split(GPT4 % r"\p{N}{1,3}", "removed", True))),
    ("Phi-4", "phi3", False, "dbrx", lambda: then_bytes(split(
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s"))),
    ("GLM-4", "glm4", True, "glm4", lambda: then_bytes(split(GPT4 % r"\p{N}{1,3}"))),
    ("Qwen 2", "qwen2", False, "qwen2", lambda: then_bytes(split(GPT4 % r"\p{N}"))),
    ("Qwen 3", "qwen3moe", False, "qwen2", lambda: then_bytes(split((GPT4 % r"\p{N}").replace(r"\r", "\r").replace(r"\n", "\n")))),
    ("StableLM 2", "stablelm", False, "stablelm2", lambda: then_bytes(split(GPT4 % r"\p{N}"))),
    ("Ling", "bailingmoe", False, "bailingmoe", lambda: then_bytes(split(
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"))),
    ("GPT-2", "gpt2", False, "gpt-2", bytes_and_words),
    ("Pythia", "gptneox", False, "olmo", bytes_and_words),
    ("Phi-2", "phi2", False, "phi-2", bytes_and_words),
    ("RoBERTa", "bert", False, "roberta-bpe", bytes_and_words),
    ("StarCoder 2", "starcoder2", False, "starcoder", lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), bytes_and_words()])),
    ("Granite 3", "granite", False, "refact", lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), bytes_and_words()])),
    ("Command R", "command-r", False, "command-r", lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), bytes_and_words()])),
    ("SmolLM", "llama", False, "smollm", lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), bytes_and_words()])),
    ("EXAONE 3", "exaone", False, "exaone", lambda: pre_tokenizers.Sequence([split(r"\p{N}"), bytes_and_words()])),
    ("Falcon", "falcon", False, "falcon", lambda: pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("contiguous"), bytes_and_words(), pre_tokenizers.Digits(individual_digits=False),
        split("[0-9][0-9][0-9]")])),
    ("DeepSeek Coder", "llama", False, "deepseek-coder", lambda: then_bytes(
        split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"),
        pre_tokenizers.Digits(individual_digits=True))),
    ("DeepSeek V3", "deepseek2", False, "deepseek-v3", lambda: then_bytes(
        split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK))),
    ("GPT-OSS", "gpt-oss", False, "gpt-4o", lambda: then_bytes(split(O200K))),
    ("Llama 4", "llama4", False, "llama4", lambda: then_bytes(split(O200K))),
    ("MiniMax M2", "minimax-m2", False, "minimax-m2", lambda: then_bytes(split(O200K, "removed", True))),
    ("Mistral Nemo", "llama", True, "tekken", lambda: then_bytes(split(
        WORDS % ("", "") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"))),
    ("BLOOM", "bloom", False, "bloom", lambda: then_bytes(split(r" ?[^(\s|[.,!?…。，、।۔،])]+"))),
    ("Seed-Coder", "llama", False, "seed-coder", lambda: then_bytes(split(
        CONTRACTIONS + "|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"))),
    ("Qwen 3.5", "qwen35", False, "qwen35", lambda: then_bytes(split(
        CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"))),
]


# ---------------------------------------------------------------- tokenizers
def byte_bpe(pre, specials, merges=60, **model):
    t = Tokenizer(models.BPE(**model))
    t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=256 + merges, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    t.add_tokens([special(s) if isinstance(s, str) else s for s in specials])
    return t


def train_sentencepiece(**options):
    with tempfile.TemporaryDirectory() as tmp:
        text = pathlib.Path(tmp, "t.txt")
        text.write_text("\n".join(line.replace("\n", " ") for line in CORPUS), encoding="utf-8")
        rules = pathlib.Path(tmp, "rules.tsv")
        rules.write_text("FF41\t61\n2460\t31\nFB01\t66 69\n", encoding="utf-8")
        if options.pop("rules", False):
            options["normalization_rule_tsv"] = str(rules)
        else:
            options["normalization_rule_name"] = "identity"
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=tmp + "/m", num_threads=1, minloglevel=2, hard_vocab_limit=False, **options)
        model = sentencepiece_model_pb2.ModelProto()
        model.ParseFromString(pathlib.Path(tmp, "m.model").read_bytes())
    for field in ("input", "model_prefix"):
        model.trainer_spec.ClearField(field)
    model.normalizer_spec.ClearField("normalization_rule_tsv")
    return model


def spm(prefix, added, ids=(0, 1, 2, -1)):
    """A SentencePiece model and the tokenizer.json that the transformers library would make of it."""
    names = ("unk_id", "bos_id", "eos_id", "pad_id")
    model = train_sentencepiece(model_type="bpe", vocab_size=340, byte_fallback=True, add_dummy_prefix=prefix,
                                remove_extra_whitespaces=False, **dict(zip(names, ids)))
    vocab = {p.piece: i for i, p in enumerate(model.pieces)}
    merges = []
    for p in sorted((p for p in model.pieces if p.type == 1), key=lambda p: -p.score):
        ways = [(p.piece[:k], p.piece[k:]) for k in range(1, len(p.piece))]
        merges += sorted((w for w in ways if w[0] in vocab and w[1] in vocab), key=lambda w: (vocab[w[0]], vocab[w[1]]))
    t = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence(([normalizers.Prepend("▁")] if prefix else []) + [normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
                                  + ([decoders.Strip(" ", 1, 0)] if prefix else []))
    t.add_special_tokens([special(p.piece) for p in model.pieces if p.type in (2, 3)])
    t.add_tokens(added)
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocab["<s>"])])
    return t, model


def unigram():
    model = train_sentencepiece(model_type="unigram", vocab_size=120, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, rules=True)
    first = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = [(s, 0.0) for s in first] + [(p.piece, p.score) for p in model.pieces[3:]] + [("<mask>", 0.0)]
    t = Tokenizer(models.Unigram(vocab, unk_id=3, byte_fallback=False))
    t.normalizer = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    t.decoder = decoders.Metaspace()
    t.add_special_tokens([special(s) for s in first] + [special("<mask>", lstrip=True)])
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return t, model


def word_piece():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789.,:;()'",
              *("##" + c for c in "abcdefghijklmnopqrstuvwxyz"), "the", "model", "##ing", "read", "##er"]
    t = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False), pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.add_special_tokens(pieces[:5])
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return t, pieces


def cases():
    """name → architectures, rows beyond the tokenizer's, pre, config, files"""
    bos = lambda t, s: processors.TemplateProcessing(single=f"{s} $A", pair=f"{s} $A {s} $B", special_tokens=[(s, t.token_to_id(s))])
    llama_config = dict(tokenizer_class="LlamaTokenizer", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                        add_bos_token=True, add_eos_token=False, add_prefix_space=True, legacy=False)

    t, model = spm(True, [special("<|im_end|>"), AddedToken("▁▁▁", normalized=False)])
    decoder = {str(i): dict(content=a.content, special=a.special, lstrip=False, rstrip=False, normalized=False, single_word=False)
               for i, a in sorted(t.get_added_tokens_decoder().items())}
    templates = [dict(name="default", template=TEMPLATE), dict(name="tool use", template="{{ tools }}")]
    yield "sentencepiece", "LlamaForCausalLM", 5, None, {}, {
        "tokenizer.json": t, "tokenizer.model": model,
        "tokenizer_config.json": {**llama_config, "added_tokens_decoder": decoder, "chat_template": templates}}

    t, model = spm(True, [])
    yield "sentencepiece-json", "LlamaForCausalLM", 0, None, dict(bos_token_id=1, eos_token_id=2), {
        "tokenizer.json": t, "tokenizer_config.json": {**llama_config, "add_prefix_space": None}}

    t, model = spm(False, [special("<start_of_turn>")], (3, 2, 1, 0))
    yield "gemma", "Gemma2ForCausalLM", 3, None, dict(bos_token_id=2, eos_token_id=1, pad_token_id=0,
        attn_logit_softcapping=50.0, final_logit_softcapping=30.0, sliding_window=64), {
        "tokenizer.json": t, "tokenizer.model": model,
        "tokenizer_config.json": dict(tokenizer_class="GemmaTokenizer", bos_token=dict(content="<s>"), eos_token="</s>", unk_token="<unk>")}

    t, model = spm(True, [special("<|endoftext|>"), AddedToken("<|user|>", normalized=False)])
    yield "phi3", "Phi3ForCausalLM", 1, None, dict(original_max_position_embeddings=128, rope_theta=1e4, sliding_window=64), {
        "tokenizer.json": t, "tokenizer.model": model,
        "tokenizer_config.json": {**llama_config, "eos_token": "<|endoftext|>"}, "chat_template.jinja": TEMPLATE}

    t = byte_bpe(then_bytes(split(GPT4 % r"\p{N}{1,3}")), ["<|begin|>", "<|end|>", "<|eot|>"], ignore_merges=True)
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), bos(t, "<|begin|>")])
    yield "llama-bpe", "LlamaForCausalLM", 2, "llama-bpe", dict(bos_token_id=316, eos_token_id=[317, 318]), {
        "tokenizer.json": t, "tokenizer_config.json": dict(
            tokenizer_class="PreTrainedTokenizerFast", bos_token="<|begin|>", eos_token="<|eot|>", chat_template=TEMPLATE)}

    t = byte_bpe(then_bytes(split(GPT4 % r"\p{N}")), ["<|eot|>", AddedToken("<tool>", normalized=False), "<|im_end|>"])
    t.normalizer = normalizers.NFC()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    yield "qwen2", "Qwen2ForCausalLM", 7, "qwen2", dict(bos_token_id=316, eos_token_id=318, rope_theta=1e6), {
        "tokenizer.json": t, "tokenizer_config.json": dict(
            tokenizer_class="PreTrainedTokenizerFast", eos_token="<|im_end|>", pad_token="<|eot|>", add_bos_token=False)}

    t = byte_bpe(then_bytes(split(GPT4 % r"\p{N}{1,3}")), ["[gMASK]", "<|user|>", "<|observation|>", "<|endoftext|>"], ignore_merges=True)
    yield "glm4-moe", "Glm4MoeForCausalLM", 0, "glm4", dict(
        eos_token_id=[319, 317], pad_token_id=319, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=64,
        n_shared_experts=1, first_k_dense_replace=1, routed_scaling_factor=1.0, norm_topk_prob=True, n_group=1, topk_group=1), {
        "tokenizer.json": t, "tokenizer_config.json": dict(
            tokenizer_class="PreTrainedTokenizerFast", eos_token="<|endoftext|>", pad_token="<|endoftext|>")}

    t = byte_bpe(bytes_and_words(), ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    t.post_processor = processors.RobertaProcessing(("</s>", 318), ("<s>", 316))
    encoder = dict(layer_norm_eps=1e-5, pad_token_id=317, max_position_embeddings=512)
    names = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>", cls_token="<s>", sep_token="</s>", mask_token="<mask>")
    yield "roberta", "RobertaModel", 0, "roberta-bpe", {**encoder, "type_vocab_size": 1}, {
        "tokenizer.json": t, "tokenizer_config.json": dict(tokenizer_class="PreTrainedTokenizerFast", **names)}

    t, model = unigram()
    yield "unigram", "XLMRobertaModel", 0, None, {**encoder, "pad_token_id": 1, "type_vocab_size": 1}, {
        "tokenizer.json": t, "sentencepiece.bpe.model": model,
        "tokenizer_config.json": dict(tokenizer_class="XLMRobertaTokenizerFast", **names)}

    t, pieces = word_piece()
    yield "word-piece", "BertModel", 2, "bert-bge", {**encoder, "type_vocab_size": 2, "pad_token_id": 0}, {
        "tokenizer.json": t, "vocab.txt": "".join(p + "\n" for p in pieces),
        "tokenizer_config.json": dict(tokenizer_class="BertTokenizerFast", unk_token="[UNK]", cls_token="[CLS]",
                                      sep_token="[SEP]", pad_token="[PAD]", mask_token="[MASK]")}


# ---------------------------------------------------------------- the converter
def content(value):
    if isinstance(value, Tokenizer):
        return value.to_str().encode()
    if isinstance(value, sentencepiece_model_pb2.ModelProto):
        return value.SerializeToString(deterministic=True)
    return value.encode() if isinstance(value, str) else json.dumps(value, ensure_ascii=False).encode()


KINDS = {"UINT32": "u32", "BOOL": "bool", "STRING": "string", "INT32": "i32", "FLOAT32": "f32", "UINT8": "u8"}


def converted(directory, pre):
    """The converter's keys. In a child: it changes global state."""
    out = directory / "out.gguf"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if pre:
                base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
            sys.argv = ["convert_hf_to_gguf.py", str(directory), "--vocab-only", "--outfile", str(out)]
            runpy.run_path(str(LLAMACPP / "convert" / "convert_hf_to_gguf.py"), run_name="__main__")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise SystemExit(f"{directory.name}: the converter failed")
    reader = gguf.GGUFReader(out)
    keys = []
    for field in reader.fields.values():
        if field.name.startswith("tokenizer."):
            kind = " ".join(KINDS.get(t.name, "array") for t in field.types)
            value = field.contents()
            if field.name == "tokenizer.ggml.precompiled_charsmap":
                value = base64.b64encode(bytes(value)).decode()
            keys.append([field.name, kind, value])
    return reader.fields["general.architecture"].contents(), keys


def convert(name, architecture, more_rows, pre, config, files):
    with tempfile.TemporaryDirectory() as tmp:
        directory = pathlib.Path(tmp, name)
        directory.mkdir()
        files = {file: content(value) for file, value in files.items()}
        for file, data in files.items():
            (directory / file).write_bytes(data)
        rows = Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab_size() + more_rows
        model_type = {"LlamaForCausalLM": "llama", "Gemma2ForCausalLM": "gemma2", "Phi3ForCausalLM": "phi3", "Qwen2ForCausalLM": "qwen2",
                      "Glm4MoeForCausalLM": "glm4_moe", "RobertaModel": "roberta", "XLMRobertaModel": "xlm-roberta", "BertModel": "bert"}
        config = {**SIZES, **config, "architectures": [architecture], "model_type": model_type[architecture], "vocab_size": rows}
        files["config.json"] = content(config)
        (directory / "config.json").write_bytes(files["config.json"])
        arch, keys = converted(directory, pre)
    text = {file: data.decode() for file, data in files.items() if not file.endswith(".model")}
    binary = {file: base64.b64encode(data).decode() for file, data in files.items() if file.endswith(".model")}
    return dict(arch=arch, rows=rows, files=text, binary=binary, keys=keys)


# ---------------------------------------------------------------- the engine
TEXTS = ["", " ", "  ", "a b", "I'm you'RE we'Ll", "3 33 333 3333 33333 3.14", "  lead", "trail  ", "\n\n x\r\n", "\t\tdef f(x):\n    y",
         "Hello, World!!! (ok) [a]{b}", "日本語テキスト 12", "naïve café", "HTTPServer XMLHttp", "don't can't it's'", "a_b-c/d\\e", "٣٤٥ ½ Ⅳ",
         "русский текст", "한국어 문장", "🚀 ok 👩‍💻", "foo\u00a0bar\u3000baz", "...---===", "1,234,567", "x" * 20, "   \n \n   z"]


def engine_tokens(path, texts):
    import ctypes

    os.environ["LLAMA_CPP_LIB_PATH"] = str(LLAMACPP / "bin")
    sys.path.insert(0, str(LLAMACPP / "python"))
    import llama_cpp.llama_cpp as api

    quiet = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(quiet, ctypes.c_void_p())
    api.llama_backend_init()
    params = api.llama_model_default_params()
    params.vocab_only = True
    model = api.llama_model_load_from_file(str(path).encode(), params)
    vocab = api.llama_model_get_vocab(model)
    out = []
    for text in texts:
        data = text.encode()
        buffer = (api.llama_token * (len(data) + 8))()
        count = api.llama_tokenize(vocab, data, len(data), buffer, len(buffer), False, False)
        out.append(list(buffer[:count]))
    api.llama_model_free(model)
    return out


def published():
    trained = json.loads(byte_bpe(bytes_and_words(), ["<|end|>"], 400).to_str())
    tokens = sorted(trained["model"]["vocab"], key=trained["model"]["vocab"].get) + ["<|end|>"]
    for model, arch, whole, name, make in PUBLISHED:
        t = Tokenizer.from_str(json.dumps({**trained, "model": {**trained["model"], "ignore_merges": whole}}))
        t.pre_tokenizer = make()
        with tempfile.TemporaryDirectory() as tmp:
            path = pathlib.Path(tmp, "vocab.gguf")
            writer = gguf.GGUFWriter(path, "llama")
            writer.add_context_length(128)
            writer.add_embedding_length(64)
            writer.add_block_count(1)
            writer.add_feed_forward_length(64)
            writer.add_head_count(2)
            writer.add_layer_norm_rms_eps(1e-5)
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre(name)
            writer.add_token_list(tokens)
            writer.add_token_types([1] * (len(tokens) - 1) + [3])
            writer.add_token_merges([" ".join(pair) for pair in trained["model"]["merges"]])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.close()
            engine = engine_tokens(path, TEXTS)
        alike = sum(t.encode(text).ids == ids for text, ids in zip(TEXTS, engine))
        yield dict(model=model, arch=arch, ignore_merges=whole, name=name, alike=f"{alike} of {len(TEXTS)}",
                   pre_tokenizer=json.loads(t.to_str())["pre_tokenizer"])


def main():
    golden = {
        "versions": dict(gguf="llama.cpp 0c1e5709", tokenizers=tokenizers.__version__, sentencepiece=sentencepiece.__version__,
                         transformers=transformers.__version__),
        "cases": {case[0]: convert(*case) for case in cases()},
        "pre": list(published()),
    }
    # Long lists on one line: a vocabulary is read by programs only.
    lines = ["{", f'"versions": {json.dumps(golden["versions"])},', '"cases": {']
    for at, (name, case) in enumerate(golden["cases"].items()):
        lines.append(f"{json.dumps(name)}: {{")
        keys = [json.dumps(key, ensure_ascii=False) for key in case.pop("keys")]
        lines += [f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}," for k, v in case.items()]
        lines += ['  "keys": [', ",\n".join("    " + key for key in keys), "  ]", "}" + ("," if at + 1 < len(golden["cases"]) else "")]
    lines += ["},", '"pre": [', ",\n".join(json.dumps(row, ensure_ascii=False) for row in golden["pre"]), "]", "}"]
    text = "\n".join(lines) + "\n"
    json.loads(text)
    (ROOT / "golden" / "vocab.json").write_text(text, encoding="utf-8")
    for row in golden["pre"]:
        print(f"{row['model']:16} {row['name']:16} {row['alike']}")


if __name__ == "__main__":
    main()
