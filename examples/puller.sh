#!/bin/sh
# Pulls the tasks of a queue over HTTP, one at a time, and runs a program for each, with what was pulled on its
# standard input:   puller.sh http://127.0.0.1:8080 TOPIC PROGRAM [ARGUMENT ...]
#
# It ends its work before it exits. Should it be killed, whatever it runs in must do so. LONGSHORE_RUNNER names it: a task
# it was given and had not started is given to it again after a restart.
set -u
url=$1 topic=$2
shift 2
name=${LONGSHORE_RUNNER:-sh-$$} lease=${LONGSHORE_LEASE:-20s}
quarter=$((${lease%s} / 4)) # of a lease, in whole seconds: of 4 s or more
work='' keeper=''
answer=$(mktemp) && headers=$(mktemp) && task=$(mktemp) || exit 1
trap 'rm -f "$answer" "$headers" "$task"' EXIT
trap leave TERM INT

# Prints the status of an answer, and leaves its body in $answer and its headers in $headers.
ask() { # ask METHOD PATH [BODY] [SECONDS]
    curl -sS -m "${4:-60}" -D "$headers" -o "$answer" -w '%{http_code}' -X "$1" "$url/v1/$2" -d "${3:-}"
}
# The lease of what was pulled: the last field of the answer.
lease_id() { sed 's/.*"lease":{"id":"\([^"]*\)".*/\1/' "$task"; }

# Extends the lease until the work has ended, and ends the work, its whole session, when it is to be stopped or nothing
# was answered: long before the lease is over.
keep() {
    while sleep "$quarter"; do
        [ "$(ask POST "leases/$(lease_id)/extend" '' "$quarter")" = 200 ] && grep -q '"stop":null' "$answer" || {
            kill -s KILL -- "-$1"
            return
        }
    done
}

# Ends the work and gives the task back.
leave() {
    trap '' TERM INT
    if [ -n "$work" ]; then
        kill "$keeper"
        kill -s KILL -- "-$work"
        ask POST "leases/$(lease_id)/nack" '{"reason": "its puller leaves"}' 5
    fi
    exit 143
}

while :; do
    # Under an id of its own, so that subscribing again changes nothing.
    ask POST subscriptions "{\"id\": \"sh-$topic\", \"topic\": \"$topic\", \"lease\": \"$lease\"}" > /dev/null
    case $(ask PATCH "subscriptions/sh-$topic?wait=5s&puller=$name") in
        200) cp "$answer" "$task" ;;
        204) sleep "$(sed -n 's/^retry-after: *\([0-9]*\).*/\1/p' "$headers")" || sleep 1; continue ;;
        *) sleep 1; continue ;;
    esac
    [ "$(ask POST "leases/$(lease_id)/start" '' "$quarter")" = 200 ] || { sleep 1; continue; }
    setsid "$@" < "$task" & work=$!
    keep $work > /dev/null 2>&1 & keeper=$!
    wait $work
    code=$?
    kill $keeper 2> /dev/null
    kill -s KILL -- "-$work" 2> /dev/null # and what it left behind
    work=''
    case $code in
        0) outcome=succeeded ;;
        137) outcome=cancelled ;;
        *) outcome=failed ;;
    esac
    ask POST "leases/$(lease_id)/ack" "{\"outcome\": \"$outcome\", \"exit_code\": $code}" > /dev/null
done
