#!/usr/bin/env bash
# guidellm on one adapter of a running server. One worker: its workers share a seed, and their arrivals coincide.
# U=http://127.0.0.1:8000 T=models/demo tests/clients/guidellm.sh
set -euo pipefail
url=${U:-http://127.0.0.1:8000} tokenizer=${T:-models/demo} out=${OUT:-runs/clients}
mkdir -p "$out"
HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 GUIDELLM__MAX_WORKER_PROCESSES=1 guidellm run \
  --backend "kind=openai_http,target=$url,model=${MODEL:-lora-00}" --tokenizer "kind=hf_auto,model=$tokenizer" \
  --data kind=synthetic_text,prompt_tokens=32,output_tokens=16 --profile kind=poisson,rate=4 \
  --constraint kind=max_requests,count=20 --seed kind=static,value=42 \
  --output "kind=json,path=$out/guidellm.json" --disable-console
