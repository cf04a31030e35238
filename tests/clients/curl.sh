#!/usr/bin/env bash
# curl -N against a running server: events arrive one by one, and the answer has exactly the length asked for.
# U=http://127.0.0.1:8000 MODEL=lora-00 tests/clients/curl.sh
set -euo pipefail
url=${U:-http://127.0.0.1:8000} model=${MODEL:-lora-00}
body='{"model": "'$model'", "prompt": "hello", "max_tokens": 8, "ignore_eos": true, "stream": true,
       "stream_options": {"include_usage": true}}'
answer=$(curl --fail-with-body -sSN "$url/v1/completions" -d "$body")
echo "$answer"
test "$(grep -c '"text"' <<<"$answer")" -eq 8
grep -q '"completion_tokens":8' <<<"$answer"
grep -qx 'data: \[DONE\]' <<<"$answer"
