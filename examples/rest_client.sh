#!/usr/bin/env bash
# Asks TensorFlow Serving over REST: status, metadata, two samples, the score of an image file.
#
#     ./rest_client.sh 127.0.0.1:8501 vae_fashion_mnist photo.png
set -euo pipefail
server=$1 model=$2 image=$3
ask() { curl --fail-with-body --silent --show-error "$@" && echo; }

ask "http://$server/v1/models/$model"
ask "http://$server/v1/models/$model/metadata" --output /dev/null

# By columns: an array for each input. A row (seed, index) for each sample.
ask "http://$server/v1/models/$model:predict" \
    --data '{"signature_name": "generate", "inputs": {"seed": [[7, 0], [7, 1]]}}'

# By rows: an object for each example. Files travel as base64.
ask "http://$server/v1/models/$model:predict" --data @- <<JSON
{"signature_name": "score_bytes", "instances": [{"image_bytes": {"b64": "$(base64 -w 0 "$image")"}}]}
JSON
