#!/bin/sh
# Pulls the tasks of a queue over HTTP, one at a time, and runs a program for each, with what was pulled on its
# standard input:   puller.sh http://127.0.0.1:8080 TOPIC PROGRAM [ARGUMENT ...]
set -u
url=$1 topic=$2
shift 2
answer=$(mktemp) && task=$(mktemp) || exit 1
trap 'rm -f "$answer" "$task"' EXIT
trap 'exit 143' TERM INT

# Prints the status of an answer, and leaves its body in $answer.
ask() { curl -sS -m 60 -o "$answer" -w '%{http_code}' -X "$1" "$url/v1/$2" -d "${3:-}"; }
# The lease of what was pulled: the last field of the answer.
lease() { sed 's/.*"lease":{"id":"\([^"]*\)".*/\1/' "$task"; }

# Extends the lease until the work has ended, and stops the work when it is to be stopped.
keep() {
    while sleep 5; do
        [ "$(ask POST "leases/$(lease)/extend")" = 200 ] && grep -q '"stop":null' "$answer" || kill "$1"
    done
}

while :; do
    # Under an id of its own, so that subscribing again changes nothing.
    ask POST subscriptions "{\"id\": \"sh-$topic\", \"topic\": \"$topic\", \"lease\": \"20s\"}" > /dev/null
    case $(ask PATCH "subscriptions/sh-$topic?wait=20s&puller=sh-$$") in
        200) cp "$answer" "$task" ;;
        204) continue ;;
        *) sleep 1 && continue ;;
    esac
    [ "$(ask POST "leases/$(lease)/start")" = 200 ] || continue
    "$@" < "$task" & work=$!
    keep $work > /dev/null 2>&1 & keeper=$!
    wait $work
    code=$?
    kill $keeper
    [ $code = 0 ] && outcome=succeeded || outcome=failed
    ask POST "leases/$(lease)/ack" "{\"outcome\": \"$outcome\", \"exit_code\": $code}" > /dev/null
done
