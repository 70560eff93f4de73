#!/usr/bin/env bash
# A whole federated run over containers: image, keys, server, nodes, run, summary; and nothing of it stays but the image.
#   docker/demo.sh                                    KEEP=1 keeps containers and volumes to look at
#   COMPOSE=docker-compose BUILD="--network host" ... for an engine without the compose plugin, or behind a proxy
set -euo pipefail
cd "$(dirname "$0")/.."
: "${COMPOSE:=docker compose}" "${IMAGE:=fedpeptao:local}" "${BUILD:=}" "${KEEP:=}"
: "${SETTINGS:=clients=3 clients-per-round=3 rounds=2 train-examples=300 test-examples=100 local-epochs=1 run-name=\"demo\"}"
export IMAGE
compose="$COMPOSE --project-name fedpeptao-demo --file docker/compose.yml"

finish() {
    status=$?
    if [ $status -ne 0 ]; then $compose logs --tail 30 || true; fi
    if [ -z "$KEEP" ]; then $compose down --volumes --timeout 20 --remove-orphans >/dev/null 2>&1 || true; fi
    exit $status
}
trap finish EXIT

until_true() { # what, command: for two minutes
    for _ in $(seq 60); do
        if "${@:2}" >/dev/null 2>&1; then return; fi
        sleep 2
    done
    echo "$1 is not ready after two minutes" >&2
    return 1
}
three_online() { [ "$($compose run --rm operator supernode list here --format json | grep -c '"online"')" = 3 ]; }
ran() { $compose run --rm operator ls here --format json | grep -q '"status": "finished:completed"'; }

# shellcheck disable=SC2086
docker build $BUILD --file docker/Dockerfile --tag "$IMAGE" .
$compose run --rm keys
$compose up --detach superlink superexec
until_true "the server" $compose run --rm operator supernode list here
for node in 0 1 2; do $compose run --rm operator supernode register "/public/node$node.pub" here; done
$compose up --detach node0 node1 node2
until_true "a node" three_online
$compose run --rm operator run . here --stream --run-config "$SETTINGS"
ran
$compose ps
