"""Writes testdata/golden/metrics.json: figures of pairs of made-up logits, computed plainly in float64 by numpy.

    python testdata/make/metrics.py

Logits are whole numbers times a power of two, made of SplitMix64, so that a test makes the same ones without a file:

    a = (mix(seed, i) >> 40) - 2^23            a whole number of 24 bits, cut to its upper `bits`
    b = a + noise - noise_max + shift          noise = (mix(seed + 1, i) >> 40) % (2 * noise_max + 1)
    reference = a * 2^scale, candidate = b * 2^scale, both exact in float32

Nothing here is online and nothing in bands: the whole matrix is there, softmax is taken of whole rows.
"""

import json
import math
import pathlib
import sys

# Scripts here are called as the packages they use: this folder must not come before those.
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != pathlib.Path(__file__).resolve().parent]

import numpy as np  # noqa: E402

MASK = (1 << 64) - 1

# positions, vocabulary; bits that are kept of 24; exponent of the scale; noise in units of 2^scale; shift likewise
CASES = {
    "little noise": dict(positions=40, vocabulary=257, seed=1, bits=24, scale=-20, noise=20_000, shift=0),
    "much noise": dict(positions=33, vocabulary=1500, seed=2, bits=24, scale=-20, noise=1_500_000, shift=0),
    "the same": dict(positions=5, vocabulary=100, seed=3, bits=24, scale=-20, noise=0, shift=0),
    "shifted": dict(positions=5, vocabulary=100, seed=3, bits=24, scale=-20, noise=0, shift=3_000_000),
    "large": dict(positions=9, vocabulary=300, seed=4, bits=24, scale=-9, noise=30_000, shift=-1_000_000),
    "small": dict(positions=9, vocabulary=2049, seed=5, bits=24, scale=-30, noise=5_000_000, shift=0),
    "ties": dict(positions=30, vocabulary=64, seed=6, bits=4, scale=-20, noise=0, shift=0),
    "ties and noise": dict(positions=30, vocabulary=64, seed=7, bits=3, scale=-20, noise=1, shift=0),
    "few tokens": dict(positions=12, vocabulary=3, seed=8, bits=24, scale=-20, noise=4_000_000, shift=0),
    "one position": dict(positions=1, vocabulary=50, seed=9, bits=24, scale=-20, noise=1_000_000, shift=0),
}


def mix(seed, index):
    z = (seed * 0xD1342543DE82EF95 + (index + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def make(positions, vocabulary, seed, bits, scale, noise, shift):
    count = positions * vocabulary
    drop = 24 - bits
    a = np.array([(((mix(seed, i) >> 40) >> drop) << drop) - (1 << 23) for i in range(count)], dtype=np.int64)
    n = np.array([(mix(seed + 1, i) >> 40) % (2 * noise + 1) for i in range(count)], dtype=np.int64)
    step = 1 << drop
    b = np.clip(a + (n - noise) * step + shift, -(1 << 24), 1 << 24)
    of = lambda x: (x.astype(np.float64) * 2.0**scale).astype(np.float32).astype(np.float64).reshape(positions, vocabulary)
    targets = [mix(seed + 2, p) % vocabulary for p in range(positions)]
    return of(a), of(b), targets


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def best(x, k):
    return np.argsort(-x, axis=-1, kind="stable")[:, :k]


def figures(a, b, targets):
    positions, vocabulary = a.shape
    p, q = log_softmax(a), log_softmax(b)
    kl = (np.exp(p) * (p - q)).sum(-1)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    five = min(5, vocabulary)
    ta, tb = best(a, five), best(b, five)
    shared = sum(len(set(x) & set(y)) for x, y in zip(ta.tolist(), tb.tolist()))
    differs = np.nonzero(ta[:, 0] != tb[:, 0])[0]
    mean = float(kl.mean())
    nll = {"reference": -p[np.arange(positions), targets], "candidate": -q[np.arange(positions), targets]}
    error = lambda x: float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else 0.0
    difference = nll["candidate"] - nll["reference"]
    return {
        "max_abs": float(np.abs(a - b).max()),
        "max_relative": float(np.abs(a - b).max() / np.abs(a).max()),
        "cosine": float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))),
        "cosine_min": float(((a * b).sum(-1) / norms).min()),
        "kl": {
            "mean": mean,
            "error": error(kl),
            "median": float(np.percentile(kl, 50)),
            "p99": float(np.percentile(kl, 99)),
            "p999": float(np.percentile(kl, 99.9)),
            "max": float(kl.max()),
        },
        "top1": float((ta[:, 0] == tb[:, 0]).mean()),
        "top5": shared / (positions * five),
        "differs": [int(differs[0]), int(ta[differs[0], 0]), int(tb[differs[0], 0])] if len(differs) else None,
        # exp of these is perplexity, which the large logits have none of.
        "nll": {side: [float(x.mean()), error(x)] for side, x in nll.items()},
        "difference": [float(difference.mean()), error(difference)],
        "relative": float(np.linalg.norm(a - b) / np.linalg.norm(a)),
        "mean_cosine": float((a.mean(0) @ b.mean(0)) / (np.linalg.norm(a.mean(0)) * np.linalg.norm(b.mean(0)))),
    }


cases = []
for name, case in CASES.items():
    a, b, targets = make(**case)
    # The bits of a few of the numbers, so that a test that makes others is told so.
    probe = np.array([a[0, 0], a[-1, -1], b[0, 0], b[-1, -1]], dtype=np.float32).view(np.uint32).tolist()
    cases.append({"name": name, **case, "probe": probe, "figures": figures(a, b, targets)})
golden = {"versions": {"numpy": np.__version__}, "cases": cases}
pathlib.Path("testdata/golden/metrics.json").write_text(json.dumps(golden, indent=1, allow_nan=False) + "\n")
