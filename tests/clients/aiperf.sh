#!/usr/bin/env bash
# aiperf over two adapters of a running server; it must send what it says and count what the server counts.
# U=http://127.0.0.1:8000 T=models/demo tests/clients/aiperf.sh
set -euo pipefail
url=${U:-http://127.0.0.1:8000} tokenizer=${T:-models/demo} out=${OUT:-runs/clients/aiperf}

# aiperf takes no local tokenizer directory when it is offline, but it does take one laid out as in the hub's cache.
hub=$(mktemp -d) id=$(printf '0%.0s' {1..40})
trap 'rm -rf "$hub"' EXIT
entry=$hub/hub/models--libra--tokenizer
mkdir -p "$entry/refs" "$entry/snapshots/$id"
printf %s "$id" >"$entry/refs/main"
cp "$tokenizer"/*.json "$entry/snapshots/$id/"

HF_HOME=$hub HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 aiperf profile -m "${MODELS:-lora-00,lora-01}" --url "$url" \
  --endpoint-type chat --streaming --tokenizer libra/tokenizer --use-server-token-count --isl 32 --osl 16 \
  --request-rate 4 --request-count 20 --warmup-request-count 2 --random-seed 7 --artifact-dir "$out" --ui none \
  --no-gpu-telemetry --extra-inputs ignore_eos:true
