#!/usr/bin/env bash
# inference-perf (Python 3.12 and later) over three adapters of a running server, 70 : 20 : 10.
# U=http://127.0.0.1:8000 T=models/demo tests/clients/inference_perf.sh
set -euo pipefail
url=${U:-http://127.0.0.1:8000} tokenizer=${T:-models/demo} out=${OUT:-runs/clients/inference-perf}
mkdir -p "$out"
cat >"$out/run.yaml" <<EOF
api: {type: completion, streaming: true}
data:
  type: random
  input_distribution: {min: 32, max: 32, mean: 32, std_dev: 0, total_count: 24}
  output_distribution: {min: 16, max: 16, mean: 16, std_dev: 0, total_count: 24}
load:
  type: poisson
  base_seed: 7
  num_workers: 1
  stages: [{rate: 4, duration: 5}]
  lora_traffic_split:
    - {name: lora-00, split: 0.7}
    - {name: lora-01, split: 0.2}
    - {name: lora-02, split: 0.1}
server: {type: vllm, model_name: ${BASE:-base}, base_url: "$url", ignore_eos: true}
tokenizer: {pretrained_model_name_or_path: "$(realpath "$tokenizer")"}
report:
  request_lifecycle: {summary: true, per_stage: true, per_adapter: true, use_server_output_tokens: true}
storage: {local_storage: {path: "$out"}}
EOF
HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 inference-perf -c "$out/run.yaml"
