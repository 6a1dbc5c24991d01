#!/usr/bin/env bash
# What each scheme costs a model: error of the weights, KL divergence of the logits, top-1 agreement, perplexity.
#
# usage: benches/quality.sh [MODEL TEXT]       (default: the small trained model of testdata, and the first 16,384 tokens of a
#                                               text that it was not trained on, in windows of 256)
#
# Prints a Markdown table. Embedding and head are kept in all rows but those marked `whole`, where they have the types that
# llama-quantize gives them. KL divergence in thousandths of a nat, from `hoist verify --against`.
#
# environment: HOIST (a built binary; default: built here in release), IMATRIX (adds rows with that importance), ROWS (a
#   pattern of rows to run)
set -euo pipefail
source "$(dirname "$0")/common.sh"
needs_hoist
model=${1:-$root/testdata/rustdoc-llama-6m}
if (($# > 1)); then text=$2; else text=$work/text && head -c 50350 "$root/testdata/rustdoc-valid.txt" > "$text"; fi
imatrix=${IMATRIX:-}

linear='--output-type bf16 --embedding-type bf16'
# NAME | arguments of `hoist quantize`
rows() {
    local method group
    for group in 128 64 32; do
        for method in rtn search; do
            echo "int4 symmetric, group $group, $method | --scheme int4 --symmetric --group-size $group --method $method"
            echo "int4 asymmetric, group $group, $method | --scheme int4 --asymmetric --group-size $group --method $method"
        done
        echo "int4 signed scales, group $group, search | --scheme int4 --signed-scales --group-size $group"
    done
    echo "int4 symmetric, channel, search | --scheme int4 --symmetric --group-size channel"
    echo "gptq, group 128, search | --scheme gptq"
    echo "gptq v2 asymmetric, group 128, search | --scheme gptq --gptq-v2 --asymmetric"
    echo "awq, group 128, search | --scheme awq"
    for method in rtn hqq search; do echo "mlx, group 64, $method | --scheme mlx --method $method --keep '*embed_tokens*' --keep lm_head*"; done
    for method in rtn search; do
        echo "nf4, $method | --scheme nf4 --method $method"
        echo "mxfp4, $method | --scheme mxfp4 --method $method"
        echo "nvfp4a16, $method | --scheme nvfp4a16 --method $method"
    done
    echo "torchao, group 128 | --scheme torchao"
    echo "fp8 | --scheme fp8"
    echo "fp8-block | --scheme fp8-block"
    for type in q4_0 q4_1 q5_0 q5_1 q8_0 iq4_nl iq4_xs q2_k q3_k_m q4_k_s q4_k_m q5_k_m q6_k; do
        echo "gguf $type | --scheme $type $linear"
        echo "gguf $type, whole | --scheme $type"
    done
    if [[ -n $imatrix ]]; then
        echo "int4 asymmetric, group 128, search, importance | --scheme int4 --asymmetric --importance $imatrix"
        echo "int4 symmetric, group 128, search, importance | --scheme int4 --symmetric --importance $imatrix"
        for type in q4_0 q4_k_m iq4_xs q3_k_m q2_k; do
            echo "gguf $type, whole, importance | --scheme $type --importance $imatrix"
        done
    fi
}

printf '| %s | %s | %s | %s | %s | %s |\n' scheme 'bits a weight' 'relative error' 'KL ×1000' top-1 perplexity
echo '|---|---|---|---|---|---|'
rows | while IFS='|' read -r name arguments; do
    name=${name% }
    [[ -z ${ROWS:-} || $name =~ ${ROWS:-} ]] || continue
    out=$work/out
    [[ $name == gguf* ]] && out=$work/out.gguf
    rm -rf "$out"
    eval "set -- $arguments"
    "$HOIST" quantize "$model" -o "$out" "$@" --json > "$work/made.json" 2> "$work/log" < /dev/null ||
        { echo "| $name | $(tail -1 "$work/log") |"; continue; }
    # What the limits of `verify` say is no matter here.
    "$HOIST" verify "$out" --against "$model" --text "$text" --window 256 --stride 256 --json \
        > "$work/verified.json" 2> "$work/log" < /dev/null || true
    [[ -s $work/verified.json ]] || { echo "| $name | $(tail -1 "$work/log") |"; continue; }
    python3 - "$name" "$work/made.json" "$work/verified.json" << 'P'
import json, sys
name, made, verified = sys.argv[1], *(json.load(open(p)) for p in sys.argv[2:])
figures = {c["name"]: c.get("figures", {}) for c in verified["checks"]}
logits, text = figures["logits"], figures["perplexity"]
print(f"| {name} | {made['bits_per_weight']:.3f} | {made['error']:.4f} | {1000 * logits['kl']['mean']:.3f} "
      f"| {logits['top1']:.4f} | {text['perplexity']:.3f} |", flush=True)
P
done
