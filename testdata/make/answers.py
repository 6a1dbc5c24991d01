"""What transformers answers when it is asked in words: goldens for `hoist verify --embed`, `--pair`, `--classify` and `--ner`, in
testdata/golden/answers.json.

Run from the repository's root, with a Python that has torch, transformers, safetensors and numpy:

    python testdata/make/answers.py

The models are those of testdata/encoders (made by encoders.py), each with a tokenizer of testdata/tokenizers. Texts of several
lengths go through transformers' own pipelines one by one, so that padding and batches are hoist's alone; vectors are masked
means divided by their length, as the model's modules.json says. Offsets count characters.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != HERE]
sys.dont_write_bytecode = True

LENGTH = 24
TEXTS = ["the world", "Hello, world! How are you today in Zürich, where rivers meet?", "a", "naïve café 東京 prices rose by 12.5 %",
         "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"]
# Short: a byte-level tokenizer with few merges makes a token of nearly each byte, and RoBERTa here has 38 places.
NAMES = ["Ada met Bob", "in Zürich today", "naïve 東京", "a"]
PAIRS = [("what is it", "it is a thing"), ("who", "nobody knows who he was, or where he went"), ("a", "b")]


def rounded(numbers):
    return [round(float(x), 7) for x in numbers]


def main():
    import torch
    import transformers
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer, pipeline

    torch.set_num_threads(1)
    out = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}, "texts": TEXTS, "names": NAMES, "pairs": PAIRS}
    with tempfile.TemporaryDirectory() as folder:
        def made(name, tokenizer):
            path = pathlib.Path(folder) / name
            subprocess.run([sys.executable, HERE / "encoders.py", "write", folder, name], check=True, cwd=ROOT)
            for file in (ROOT / "testdata/tokenizers" / tokenizer).iterdir():
                shutil.copy(file, path)
            return path, AutoTokenizer.from_pretrained(path)

        path, tokenizer = made("sentence-mean", "wordpiece")
        model = AutoModel.from_pretrained(path, attn_implementation="eager").eval()
        vectors = []
        for text in TEXTS:
            given = tokenizer(text, return_tensors="pt", truncation=True, max_length=LENGTH)
            with torch.no_grad():
                mean = model(**given).last_hidden_state[0].mean(0)
            vectors.append(rounded(mean / mean.norm()))
        out["embed"] = {"model": "sentence-mean", "tokenizer": "wordpiece", "vectors": vectors}

        path, tokenizer = made("bert-sequence", "wordpiece")
        model = AutoModelForSequenceClassification.from_pretrained(path, attn_implementation="eager")
        ask = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
        out["classify"] = {"model": "bert-sequence", "tokenizer": "wordpiece", "classes": [
            [[c["label"], round(c["score"], 7)] for c in ask([text], truncation=True, max_length=40)[0]] for text in TEXTS]}

        path, tokenizer = made("bert-cross", "wordpiece")
        model = AutoModelForSequenceClassification.from_pretrained(path, attn_implementation="eager").eval()
        scores = []
        for query, document in PAIRS:
            with torch.no_grad():
                scores.append(model(**tokenizer(query, document, return_tensors="pt")).logits[0, 0])
        out["pair"] = {"model": "bert-cross", "tokenizer": "wordpiece", "scores": rounded(scores)}

        out["ner"] = []
        for name, kind in [("bert-tokens", "wordpiece"), ("roberta-tokens", "roberta-bpe")]:
            path, tokenizer = made(name, kind)
            model = AutoModelForTokenClassification.from_pretrained(path, attn_implementation="eager")
            ask = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple")
            found = [[[e["entity_group"], e["start"], e["end"], round(float(e["score"]), 7)] for e in ask(text)] for text in NAMES]
            out["ner"].append({"model": name, "tokenizer": kind, "entities": found})
    path = ROOT / "testdata/golden/answers.json"
    path.write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
