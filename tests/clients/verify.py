#!/usr/bin/env python3
"""`hoist verify` against transformers, from the command line: a row a case, exit 7 if one misses.

usage: verify.py [CASE…] [--work DIR] [--no-real] [--minilm DIR]

Per case of testdata/make/verify.py (each family with a vocabulary, and variants of their configs) the model is written, transformers
computes its logits in float32, and
  forms   for safetensors, .bin and GGUF (both made by `hoist convert`): `hoist verify FORM --reference ANSWER --logits OUT` ends well,
          and OUT, read and compared here by numpy, has a relative error below 1e-5 (or twice transformers' own in 32 bits)
  bf16    the same with --dtype bf16: the error's median over positions (of the root mean square) is within 15 % of transformers' own in bf16
  q8_0    `hoist convert --dtype q8_0` of it passes `hoist verify Q8_0 --against MODEL --min-top1 0.85`
  own     `hoist verify GGUF --against MODEL` passes

Then the real models: the trained model's perplexity over the whole of its text against transformers, in both recipes and from each
container; with --minilm, where testdata/get_minilm.sh has put it, the embeddings of a real encoder. --work keeps the files, --no-real leaves the real models out, names choose cases.
environment: HOIST (the binary). Python: setup_python.sh.
"""
import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.dont_write_bytecode = True

# By its path: the folder holds scripts called as the packages that they use.
maker = importlib.util.spec_from_file_location("verify_maker", ROOT / "testdata/make/verify.py")
oracle = importlib.util.module_from_spec(maker)
maker.loader.exec_module(oracle)

LIMIT = 1e-5


def hoist(*args, codes=(0,)):
    """(exit code, standard output); what it said where the code is not one of `codes`."""
    r = subprocess.run([os.environ["HOIST"], *map(str, args)], capture_output=True, text=True, errors="replace",
                       env={**os.environ, "HOIST_PROGRESS": "none"})
    if r.returncode not in codes:
        said = [l for l in (r.stderr + r.stdout).splitlines() if l.strip()] or ["nothing"]
        raise RuntimeError(f"`hoist {' '.join(map(str, args))}` ended with {r.returncode}: {' | '.join(said)[:400]}")
    return r.returncode, r.stdout


def distance(expected, path):
    """Largest error of the logits in a file, and the median over positions of the root mean square, as fractions of the largest that is expected."""
    import numpy as np
    from safetensors.numpy import load_file

    got = load_file(path)["logits"].astype(np.float64).reshape(expected.shape)
    off = np.abs(got - expected) / np.abs(expected).max()
    return (float(off.max()), float(np.median(np.sqrt((off**2).mean(-1))))) if np.isfinite(off).all() else (math.inf, math.inf)


def check(case, root):
    """(cells, misses) of a case."""
    from safetensors.torch import save_file

    cells, misses = {}, []
    ids, expected, facts = oracle.answers(case)
    reference = root / f"{case}.reference.safetensors"
    save_file({"input_ids": ids, "logits": expected.float()[None].contiguous()}, reference)
    expected = expected.numpy()
    name, edit = oracle.cases()[case]
    source = oracle.models.write(name, root / case)
    config = source / "config.json"
    config.write_text(json.dumps(oracle.merged(json.loads(config.read_text()), edit), indent=1))
    forms = {"safetensors": source, "bin": root / case / "torch", "gguf": root / case / "f32.gguf"}
    hoist("convert", source, "-o", forms["bin"], "--to", "bin", "--force")
    if facts["gguf"] != "same":
        del forms["gguf"]
    else:
        hoist("convert", source, "-o", forms["gguf"], "--dtype", "f32", "--force")
    out = root / f"{case}.logits.safetensors"

    def measured(form, *more):
        hoist("verify", forms[form], "--reference", reference, "--logits", out, "--force", *more)
        return distance(expected, out)

    for form in forms:
        try:
            most, _ = measured(form)
            cells[form] = f"{most:.1e}"
            # Nobody computing in 32 bits is nearer to the truth than transformers is itself.
            limit = max(LIMIT, 2 * facts["f64"])
            if not most < limit:
                misses.append(f"{form}: relative error {most:.1e}, limit {limit:.0e}")
        except (RuntimeError, KeyError) as e:
            misses.append(f"{form}: {e}")
    try:
        # A router's choice may hang on bf16's rounding: the limits by type are not the question here.
        _, median = measured("safetensors", "--dtype", "bf16", "--max-kl", "1000", "--min-top1", "0", "--max-rel", "1000", "--min-cosine", "-1")
        cells["bf16"] = f"{median:.1e} of {facts['bf16_median']:.1e}"
        if not median <= 1.15 * facts["bf16_median"]:
            misses.append(f"bf16: median {median:.1e}, transformers' own {facts['bf16_median']:.1e}")
    except (RuntimeError, KeyError) as e:
        misses.append(f"bf16: {e}")
    if "gguf" in forms:
        small = root / case / "q8_0.gguf"
        hoist("convert", source, "-o", small, "--dtype", "q8_0", "--force")
        # Random weights' logits lie so close together that eight bits change the likeliest more often than a trained model's.
        for label, candidate, limits in (("q8_0", small, ["--min-top1", "0.85"]), ("own", forms["gguf"], [])):
            try:
                hoist("verify", candidate, "--against", source, *limits)
                cells[label] = "ok"
            except RuntimeError as e:
                misses.append(str(e))
    return cells, misses


def llama_cpp_perplexity(model, ids, bos, context=512):
    """As llama-perplexity scores: chunks that do not overlap, of each the second half; a chunk's first token gives way to the first of all."""
    import torch

    half, total, count = context // 2, 0.0, 0
    for k in range(len(ids) // context):
        window = torch.tensor([ids[k * context:(k + 1) * context]])
        if bos is not None:
            window[0, 0] = bos
        scores = oracle.logits_of(model, window).log_softmax(-1)
        total -= scores[half:-1].gather(1, window[0, half + 1:, None]).sum().item()
        count += context - half - 1
    return count, math.exp(total / count)


def figure(document, key):
    """The first number under a key of this name, wherever it stands in a report."""
    if isinstance(document, dict):
        if isinstance(document.get(key), (int, float)) and not isinstance(document.get(key), bool):
            return document[key]
        document = list(document.values())
    if isinstance(document, list):
        for part in document:
            found = figure(part, key)
            if found is not None:
                return found
    return None


def real(root):
    """Lines, misses: the trained model over the whole of its text."""
    import torch
    import transformers as tf

    lines, misses = [], []
    source, text = ROOT / "testdata/rustdoc-llama-6m", ROOT / "testdata/rustdoc-valid.txt"
    tf.logging.set_verbosity_error()
    tf.logging.disable_progress_bar()
    model = tf.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = tf.AutoTokenizer.from_pretrained(source)
    ids = tokenizer(text.read_bytes().decode(), add_special_tokens=False).input_ids
    forms = {"safetensors": source, "bin": root / "rustdoc-torch", "gguf": root / "rustdoc.gguf"}
    hoist("convert", source, "-o", forms["bin"], "--to", "bin", "--force")
    hoist("convert", source, "-o", forms["gguf"], "--force")
    recipes = {
        "256/256": (oracle.perplexity(model, ids, 256, 256), ["--window", 256, "--stride", 256]),
        "256/128": (oracle.perplexity(model, ids, 256, 128), ["--window", 256, "--stride", 128]),
        "llama.cpp, 256": (llama_cpp_perplexity(model, tokenizer(text.read_bytes().decode()).input_ids, None, 256), ["--recipe", "llama.cpp", "--window", 256]),
    }
    for recipe, ((scored, expected), flags) in recipes.items():
        for form, path in forms.items():
            found = figure(json.loads(hoist("verify", path, "--text", text, "--json", *flags)[1]), "perplexity")
            lines.append(f"{recipe:15} {form:12} {found} (transformers {expected:.4f}, {scored} scored)")
            if found is None or abs(found / expected - 1) > 1e-3:
                misses.append(f"perplexity {recipe} {form}: {found}, expected {expected:.4f}")
    return lines, misses


def sentences(directory):
    """Line, misses: embeddings of a sentence-transformers BERT (get_minilm.sh) against transformers' mean of the last hidden states."""
    import numpy as np
    import torch
    import transformers as tf

    texts = ["A cat sat on the mat.", "Der Zug nach Hamburg fährt um 7:42 Uhr ab.", "let x: Vec<u8> = Vec::new();", "数学", "", "word " * 400]
    tokenizer, model = tf.AutoTokenizer.from_pretrained(directory), tf.AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].float()
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).double().numpy()
    found = np.array([json.loads(l) for l in hoist("verify", directory, "--embed", *texts)[1].splitlines()], np.float64)
    cosine = float((expected * found).sum(-1).min()) if found.shape == expected.shape else float("nan")
    return f"embeddings of {directory}: least cosine {cosine:.7f}", [] if cosine > 0.9999 else [f"embeddings: cosine {cosine}"]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("cases", nargs="*")
    ap.add_argument("--work", type=Path)
    ap.add_argument("--no-real", action="store_true")
    ap.add_argument("--minilm", type=Path)
    args = ap.parse_args()
    if not os.environ.get("HOIST"):
        sys.exit("HOIST names no binary")
    import torch

    torch.set_num_threads(1)
    cases = oracle.cases()
    if unknown := set(args.cases) - set(cases):
        sys.exit(f"no case {' '.join(sorted(unknown))}; there are {' '.join(cases)}")
    columns = ["safetensors", "bin", "gguf", "bf16", "q8_0", "own"]
    print(f"| case | {' | '.join(columns)} | s |  |\n|---|{'---|' * len(columns)}---|---|")
    failed = []
    with tempfile.TemporaryDirectory() as tmp:
        root = (args.work or Path(tmp)).resolve()
        root.mkdir(parents=True, exist_ok=True)
        for case in args.cases or cases:
            begun = time.monotonic()
            try:
                cells, misses = check(case, root)
            except Exception as e:
                cells, misses = {}, [f"{type(e).__name__}: {e}"]
            if misses:
                failed.append(case)
            print(f"| {case} | {' | '.join(cells.get(c, '–') for c in columns)} | {time.monotonic() - begun:.0f} | {'MISS' if misses else ''} |", flush=True)
            for line in misses:
                print(f"    {case}: {line}", file=sys.stderr, flush=True)
        if not args.no_real and not args.cases:
            lines, misses = real(root)
            print("\n".join(lines))
            failed += misses
        if args.minilm:
            line, misses = sentences(args.minilm)
            print(line)
            failed += misses
    if failed:
        print(f"FAILED: {'; '.join(failed)}", file=sys.stderr)
        sys.exit(7)


if __name__ == "__main__":
    main()
