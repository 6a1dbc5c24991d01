#!/usr/bin/env python3
"""Every family through hoist and the real clients: a row each, exit 7 if one misses.

usage: families.py [FAMILY…] [--work DIR] [--reference] [--show N]

Per family of testdata/families (made by testdata/make/families.py), the model is written and
  values  `hoist convert MODEL -o F.gguf --dtype f32|f16|bf16|q8_0` equals the reference converter's file: every tensor in
          name, type, shape and bytes, every key in type and value but for those in `ALLOWED`
  logits  llama.cpp on the f32 file gives transformers' answer: relative error below 1e-5, below 1e-3 where a GELU is
          involved (the engine looks it up in a table of f16)
  tokens  1,000 strings tokenise in llama.cpp as in Hugging Face tokenizers, but for those that `ENGINE` counts
  back    `hoist convert F.gguf -o DIR`, from f32 and from the type that the model is stored in: each tensor has the values
          that went in, transformers loads DIR and gives the original answer, and its tokenizer.json the original ids

--reference puts the reference converter's own file in hoist's place: what the engine reaches at best. --work keeps the files.
environment: HOIST (the binary), LLAMACPP (get_llamacpp.sh). Python: setup_python.sh.
"""
import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True

# By its path: the folder holds scripts called as the packages that they use.
maker = importlib.util.spec_from_file_location("families_maker", HERE.parent.parent / "testdata/make/families.py")
models = importlib.util.module_from_spec(maker)
maker.loader.exec_module(models)

from convert_reference import last_line, run_jobs, script_of  # noqa: E402

# Keys in which hoist's file may differ from the reference's: (family, key, test of (theirs, ours), reason).
# A key that one of the two lacks is None there.
SAME_SPLITTING = [{"dbrx", "smaug-bpe"}, {"starcoder", "refact"}, {"gpt-4o", "llama4"}, {"glm4", "chatglm-bpe"}]
ALLOWED = [
    (r".*", r"tokenizer\.ggml\.pre", lambda a, b: any(a and b and {a[1], b[1]} <= s for s in SAME_SPLITTING),
     "two names of one splitting in the engine, which no structure tells apart"),
    (r"llama-hf", r"tokenizer\.ggml\.scores", lambda a, b: a and b and a[:2] == b[:2],
     "without tokenizer.model the reference writes -1000 for every score, and the engine then merges by position; hoist writes ranks"),
]

# Strings of the thousand in which the engine differs from Hugging Face whatever the file holds: tokenizer folder → (most, why).
ENGINE = {
    "qwen2": (25, "Hugging Face applies NFC, the engine does not"),
    "deepseek-llm": (5, "spaces before U+3000; letters beyond the engine's list"),
    "wordpiece": (5, "U+2581 becomes a space, marks that stand alone vanish"),
    "unigram": (5, "U+200D is removed by one character map"),
}


# Families whose files the engine computes less closely than 1e-5, the reference converter's own included: (limit, why).
LOGITS = {
    "gpt_oss": (0.15, "ggml multiplies MXFP4 weights with activations of eight bits"),
    "deepseek_v2-lite": (3e-5, "rounding in the engine"),
}

# Strings of the thousand in which a tokenizer.json rebuilt from a GGUF may differ: tokenizer folder → (most, why).
REBUILT = {"deepseek-llm": (1, "the tiny model's class of letters is wider than the splitting that the key names")}


class Miss(Exception):
    """A check that failed, in a line."""


def hoist(*args):
    r = subprocess.run([os.environ["HOIST"], *map(str, args)], capture_output=True, text=True, errors="replace",
                       env={**os.environ, "HOIST_PROGRESS": "none"})
    if r.returncode:
        said = [l for l in r.stderr.splitlines() if l.strip()] or ["nothing on stderr"]
        raise Miss(f"`hoist {' '.join(map(str, args))}` ended with {r.returncode}: {' | '.join(said)[:400]}")
    return r


def compare_gguf(name, theirs, ours, show):
    """Lines of difference, allowed ones left out."""
    (keys_a, rows_a), (keys_b, rows_b) = models.read_gguf(theirs), models.read_gguf(ours)
    keys_a |= models.amend(name, theirs)
    lines, a, b = [], {r[0]: r[1:] for r in rows_a}, {r[0]: r[1:] for r in rows_b}
    for key in sorted(keys_a.keys() | keys_b.keys()):
        x, y = keys_a.get(key), keys_b.get(key)
        if x == y or any(re.fullmatch(f, name) and re.fullmatch(k, key) and test(x, y) for f, k, test, _ in ALLOWED):
            continue
        lines.append(f"key {key}: expected {x}, found {y}{first_item(theirs, ours, key) if x and y else ''}")
    for tensor in sorted(a.keys() | b.keys()):
        x, y = a.get(tensor), b.get(tensor)
        if x is None or y is None:
            lines.append(f"tensor {tensor}: {'missing' if y is None else 'not expected'} ({x or y})")
        elif x[:2] != y[:2]:
            lines.append(f"tensor {tensor}: expected {x[1]} {x[0]}, found {y[1]} {y[0]}")
        elif x[2] != y[2]:
            lines.append(f"tensor {tensor}: {first_difference(theirs, ours, tensor)}")
    if len(rows_b) != len(b):
        lines.append("a tensor's name is there twice")
    return lines


def first_item(theirs, ours, key):
    """Where two arrays part."""
    import gguf

    x, y = (gguf.GGUFReader(str(f)).get_field(key).contents() for f in (theirs, ours))
    if not (isinstance(x, list) and isinstance(y, list)):
        return ""
    at = [i for i, (a, b) in enumerate(zip(x, y)) if a != b]
    return f"; {len(at)} items differ, first at {at[0]}: expected {x[at[0]]!r}, found {y[at[0]]!r}" if at else ""


def first_difference(theirs, ours, tensor):
    import gguf
    import numpy as np

    pick = lambda f: next(t for t in gguf.GGUFReader(str(f)).tensors if t.name == tensor)
    x, y = pick(theirs), pick(ours)
    p, q = x.data.reshape(-1).view(np.uint8), y.data.reshape(-1).view(np.uint8)
    at = int(np.flatnonzero(p != q)[0])
    u, v = (gguf.quants.dequantize(t.data, t.tensor_type).reshape(-1) for t in (x, y))
    differ = np.flatnonzero(~((u == v) | (np.isnan(u) & np.isnan(v))))
    if not differ.size:
        return f"byte {at} is {p[at]:#04x}, found {q[at]:#04x}, no value differs"
    i = int(differ[0])
    same = "the same values in another order" if np.array_equal(np.sort(u), np.sort(v)) else "other values"
    return f"{differ.size} of {u.size} values differ ({same}), first at {i}: expected {u[i]!r}, found {v[i]!r}"


def relative(a, b):
    """Greatest error against the greatest value; the narrower vocabulary counts."""
    import numpy as np

    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    width = min(a.shape[-1], b.shape[-1])
    if a.shape[:-1] != b.shape[:-1]:
        raise Miss(f"answers have shapes {a.shape} and {b.shape}")
    a, b = a[..., :width], b[..., :width]
    return float(np.abs(a - b).max() / np.abs(a).max()) if np.isfinite(b).all() else float("inf")


def engine_answer(gguf, ids, encoder):
    import numpy as np
    from llamacpp import Model

    model = Model(gguf)
    return np.stack([model.forward(row, encoder, threads=1) for row in ids.tolist()])


def tokens_alike(reference, encode, show):
    """(strings that differ, examples)."""
    import texts

    bad = []
    for text in texts.strings(1000, 20):
        a, b = reference.encode(text).ids, encode(text)
        if a != b:
            k = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            bad.append(f"{text!r} at {k}: expected {[reference.id_to_token(i) for i in a[k:k + 4]]}, found {[reference.id_to_token(i) for i in b[k:k + 4]]}")
    return len(bad), bad[:show]


def source_values(family, directory, tmp):
    """name → float32 tensor of the source, quantised weights as transformers' own rules give them, without what no engine has."""
    from safetensors import safe_open

    path = family.load(directory, Path(tmp, "plain")) if family.load else directory
    out = {}
    for f in sorted(path.glob("model*.safetensors")):
        with safe_open(f, "pt") as s:
            out |= {k: s.get_tensor(k) for k in s.keys()}
    return per_expert(out) if directory.name.endswith("-fused") else out


def per_expert(state):
    """Fused experts one tensor an expert, the form that every version of transformers reads and that hoist writes."""
    out = {}
    mixtral = not any(k.endswith("q_norm.weight") for k in state)          # the other fused family norms its queries
    for k, w in state.items():
        moe = k.split(".mlp.")[0] + (".block_sparse_moe" if mixtral else ".mlp")
        names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
        if k.endswith("experts.gate_up_proj"):
            for e, both in enumerate(w):
                for which, half in zip(names, both.chunk(2)):
                    out[f"{moe}.experts.{e}.{which}.weight"] = half
        elif k.endswith("experts.down_proj"):
            out |= {f"{moe}.experts.{e}.{names[2]}.weight": d for e, d in enumerate(w)}
        else:
            out[k.replace(".mlp.gate.", ".block_sparse_moe.gate.") if mixtral else k] = w
    return out


def check_back(name, family, gguf, out, expected, ids, source, tmp, show):
    """Relative error of transformers on what hoist wrote from a GGUF; raises Miss."""
    import torch
    from safetensors import safe_open
    from tokenizers import Tokenizer

    out.parent.mkdir(exist_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    hoist("convert", gguf, "-o", out)
    back = {}
    for f in sorted(out.glob("*.safetensors")):
        with safe_open(f, "pt") as s:
            back |= {k: s.get_tensor(k) for k in s.keys()}
    plain = lambda k: re.sub(r"^(language_model\.model|model\.language_model)\.", "model.", k).replace("language_model.lm_head", "lm_head")
    if name == "bert-old":
        plain = lambda k: re.sub(r"^bert\.", "", k).replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    source = {plain(k): v for k, v in source.items()}
    lines = []
    for k in sorted(back.keys() - source.keys()):
        lines.append(f"{k}: not in the source")
    for k in sorted(source.keys() & back.keys()):
        a, b = source[k], back[k]
        if family.load:
            a = a.to(b.dtype)                    # codes times scales have more bits than a narrow type holds
        if name.endswith("roberta") and k.endswith("position_embeddings.weight") and a.shape == b.shape:
            a, b = a[2:], b[2:]                  # rows up to the padding's own, which no GGUF holds and no text reaches
        if a.shape != b.shape:
            lines.append(f"{k}: expected shape {list(a.shape)}, found {list(b.shape)}")
        elif not torch.equal(a.double(), b.double()):
            lines.append(f"{k}: {int((a.double() != b.double()).sum())} of {a.numel()} values differ")
    gemma_f32 = "Gemma" in family.model and family.dtype == "f32"
    if lines and not gemma_f32:
        raise Miss(f"back from {gguf.name}: " + "; ".join(lines[:show]))
    text_only = models.Family({"Gemma3ForConditionalGeneration": "Gemma3ForCausalLM", "Llama4ForConditionalGeneration": "Llama4ForCausalLM"}.get(
        family.model, family.model), family.config, family.tokenizer)
    got = models.answer(models.load_model(text_only, out, tmp), ids)
    error = relative(expected, got)
    if error > (1e-6 if gemma_f32 else 0) and not (family.load and gguf.name != f"{name}.f32.gguf"):
        raise Miss(f"back from {gguf.name}: transformers' answer is off by {error:.1e}")
    tok = out / "tokenizer.json"
    if not tok.exists():
        raise Miss(f"back from {gguf.name}: no tokenizer.json")
    original, written = Tokenizer.from_file(str(models.TOKENIZERS / family.tokenizer / "tokenizer.json")), Tokenizer.from_file(str(tok))
    bad, examples = tokens_alike(original, lambda t: written.encode(t).ids, show)
    if bad > REBUILT.get(family.tokenizer, (0, ""))[0]:
        raise Miss(f"back from {gguf.name}: {bad} of 1000 strings tokenise otherwise: {'; '.join(examples)}")
    return error


def check(name, family, root, use_reference, show):
    """(cells, misses) of a family."""
    from llamacpp import Model
    from tokenizers import Tokenizer

    cells, misses = {}, []
    spec = models.spec_of(name)
    directory = models.write(name, root / "models")
    ids = models.input_ids(name)
    tmp = tempfile.mkdtemp(dir=root)
    expected = models.answer(models.load_model(family, directory, tmp), ids).float()
    encoder = expected.shape[-1] < models.VOCAB
    reference = root / "reference"
    reference.mkdir(exist_ok=True)
    given = family.via(directory, root / "via" / name) if family.via else directory
    jobs = models.reference_jobs(name, given, reference, spec)
    for i in run_jobs(jobs):
        misses.append(f"the reference converter refuses: {last_line(jobs[i]['log'])}")
    if misses:
        return cells, misses
    ours = reference
    if not use_reference:
        ours, good = root / "hoist", 0
        ours.mkdir(exist_ok=True)
        for t in models.OUTTYPES:
            target = ours / f"{name}.{t}.gguf"
            target.unlink(missing_ok=True)
            try:
                hoist("convert", directory, "-o", target, "--dtype", t)
                lines = compare_gguf(name, reference / target.name, target, show)
                good += not lines
                misses += [f"{t}: {l}" for l in lines[:show]] + ([f"{t}: and {len(lines) - show} more"] if len(lines) > show else [])
            except Miss as e:
                misses.append(str(e))
        cells["values"] = f"{good}/{len(models.OUTTYPES)}"
    gguf = ours / f"{name}.f32.gguf"
    if not gguf.exists():
        return cells, misses
    limit = LOGITS.get(name, (1e-3 if spec["gelu"] else 1e-5,))[0]
    error = relative(expected, engine_answer(gguf, ids, encoder))
    cells["logits"] = f"{error:.1e}"
    if not error < limit:
        misses.append(f"llama.cpp on {gguf.name}: relative error {error:.1e}, limit {limit:.0e}")
    hf, cpp = Tokenizer.from_file(str(models.TOKENIZERS / family.tokenizer / "tokenizer.json")), Model(gguf, vocab_only=True)
    bad, examples = tokens_alike(hf, lambda t: cpp.tokenize(t, True, True), show)
    cells["tokens"] = f"{1000 - bad}"
    if bad > ENGINE.get(spec["tokenizer"], (0, ""))[0]:
        misses.append(f"{bad} of 1000 strings tokenise otherwise in llama.cpp: {'; '.join(examples)}")
    if not use_reference:
        source = source_values(family, directory, tmp)
        done = []
        for t in dict.fromkeys(("f32", family.dtype)):
            try:
                done.append(f"{check_back(name, family, ours / f'{name}.{t}.gguf', root / 'back' / f'{name}.{t}', expected, ids, source, tmp, show):.0e}")
            except Exception as e:
                misses.append(str(e) if isinstance(e, Miss) else f"back from {t}: {type(e).__name__}: {e}")
        cells["back"] = " ".join(done) or "–"
    return cells, misses


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("families", nargs="*")
    ap.add_argument("--work", type=Path)
    ap.add_argument("--reference", action="store_true")
    ap.add_argument("--show", type=int, default=6)
    args = ap.parse_args()
    script_of(os.environ.get("LLAMACPP"))          # its gguf-py goes before the installed one, so before torch and transformers
    if not args.reference and not os.environ.get("HOIST"):
        sys.exit("HOIST names no binary")
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)                       # a pool of threads does not survive a fork
    table = models.table()
    if unknown := set(args.families) - set(table):
        sys.exit(f"no family {' '.join(sorted(unknown))}; there are {' '.join(table)}")
    failed = []
    columns = ["logits", "tokens"] if args.reference else ["values", "logits", "tokens", "back"]
    print(f"| family | {' | '.join(columns)} | s |  |\n|---|{'---|' * len(columns)}---|---|")
    with tempfile.TemporaryDirectory() as tmp:
        root = (args.work or Path(tmp)).resolve()
        root.mkdir(parents=True, exist_ok=True)
        for name in args.families or table:
            begun, report = time.monotonic(), root / f"{name}.json"
            report.unlink(missing_ok=True)
            sys.stdout.flush()
            pid = os.fork()                        # an engine that aborts takes only its own family along
            if pid == 0:
                code = 1
                try:
                    report.write_text(json.dumps(check(name, table[name], root, args.reference, args.show)))
                    code = 0
                except BaseException as e:
                    traceback.print_exc()
                    report.write_text(json.dumps(({}, [f"{type(e).__name__}: {e}"])))
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            status = os.waitpid(pid, 0)[1]
            cells, misses = json.loads(report.read_text()) if report.exists() else ({}, [f"ended by wait status {status}"])
            if misses:
                failed.append(name)
            print(f"| {name} | {' | '.join(cells.get(c, '–') for c in columns)} | {time.monotonic() - begun:.0f} | {'MISS' if misses else ''} |", flush=True)
            for line in misses:
                print(f"    {name}: {line}", file=sys.stderr, flush=True)
    if failed:
        print(f"FAILED: {' '.join(failed)}", file=sys.stderr)
        sys.exit(7)


if __name__ == "__main__":
    main()
