#!/usr/bin/env bash
# Files that `hoist quantize` makes of a GGUF against those of llama-quantize, byte for byte, and against what hoist makes of the
# checkpoint that the GGUF was converted from.
#
#     tests/clients/llama_quantize.sh HOIST LLAMA_QUANTIZE MODEL… [-- SCHEME…]
#
# A MODEL is a checkpoint or a GGUF that is not quantised. Set IMATRIX to a file that fits the models to weigh with it.
set -uo pipefail
hoist=$1 llama=$2
shift 2
models=() schemes=()
while (($#)); do
    [[ $1 == -- ]] && shift && schemes=("$@") && break
    models+=("$1") && shift
done
((${#schemes[@]})) || schemes=(q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q3_k_s q3_k_m q3_k_l q4_k_s q4_k_m q5_k_s q5_k_m q6_k iq4_nl iq4_xs
    tq1_0 tq2_0 mxfp4_moe)
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
same=0 other=0 both_refuse=0
for model in "${models[@]}"; do
    from=$model
    if [[ $model != *.gguf ]]; then
        "$hoist" -q convert "$model" -o "$work/from.gguf" --force > /dev/null || { echo "$model: not converted"; continue; }
        from=$work/from.gguf
    fi
    for scheme in "${schemes[@]}"; do
        rm -f "$work"/ours.gguf "$work"/theirs.gguf "$work"/direct.gguf
        "$hoist" -q quantize "$from" -o "$work/ours.gguf" --scheme "$scheme" ${IMATRIX:+--importance "$IMATRIX"} \
            > "$work/ours.log" 2>&1
        ours=$?
        "$llama" ${IMATRIX:+--imatrix "$IMATRIX"} "$from" "$work/theirs.gguf" "$scheme" 2 > "$work/theirs.log" 2>&1
        theirs=$?
        if ((ours && theirs)); then
            both_refuse=$((both_refuse + 1))
        elif ((ours || theirs)) || ! cmp -s "$work/ours.gguf" "$work/theirs.gguf"; then
            other=$((other + 1))
            echo "DIFFERS $model $scheme (hoist $ours, llama-quantize $theirs): $(tail -n 2 "$work/ours.log" | tr '\n' ' ')" \
                "$(tail -n 2 "$work/theirs.log" | tr '\n' ' ')"
            continue
        elif [[ $from != "$model" ]] && {
            "$hoist" -q quantize "$model" -o "$work/direct.gguf" --scheme "$scheme" ${IMATRIX:+--importance "$IMATRIX"} \
                > /dev/null 2>&1
            ! cmp -s "$work/ours.gguf" "$work/direct.gguf"
        }; then
            other=$((other + 1)) && echo "DIFFERS $model $scheme: straight from the checkpoint"
            continue
        else
            same=$((same + 1))
        fi
    done
    echo "$model"
done
echo "$same files equal, $other not, $both_refuse refused by both"
((other == 0))
