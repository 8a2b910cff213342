#!/usr/bin/env bash
# A runner for Longshore in shell: one job at a time, with curl, and python3 to read JSON and to start commands.
#
#     examples/runner.sh http://127.0.0.1:8080 [ID]
#
# Everything happens in one loop that comes round every 4 s at least, and work ends 5 s before its lease does: it needs
# leases of 10 s or more (lease.ttl, 15 s by default).
set -u -m # each command is a process group of its own

url=${1:-http://127.0.0.1:8080} id=${2:-shell-$$}
runner=$url/v1/runners/$id incarnation=$(date +%s%N)
lease=0 until=0 beat_at=0 number=0 # seconds since the machine started
turn=0 assigned='' known='' task='' token='' pid='' ended_as='' kill_at=0 unsaid='' over=' '
leave_by=''
trap '[ -n "$leave_by" ] || leave_by=$(($(now) + 5))' TERM INT

now() { cut -d. -f1 /proc/uptime; }
post() { curl -s --fail-with-body -m 2 -H 'content-type: application/json' -d "$2" "$1"; }
# pick EXPRESSION: what Python makes of the JSON `j` on standard input; nothing of a version it does not know.
pick() { python3 -c "import json, re, sys; j = json.load(sys.stdin); assert j.get('v', 1) == 1; print($1)" 2>/dev/null; }
listed() { [ -z "$task" ] || printf '{"id": "%s", "token": "%s"}' "$task" "$token"; }
report() { # report ID TOKEN WORDS
    printf '{"incarnation": "%s", "kind": "job", "id": "%s", "token": "%s", %s}' "$incarnation" "$1" "$2" "$3"
}

register() {
    local sent answer refused
    sent=$(now)
    answer=$(post "$url/v1/runners" "{\"id\": \"$id\", \"incarnation\": \"$incarnation\", \"kinds\": [\"job\"],
        \"slots\": 1, \"running\": [$(listed)]}") || {
        # The same words will never be taken.
        refused=$(pick 'j["detail"] if j["status"] == 400 else ""' <<<"$answer")
        [ -z "$refused" ] || [ -n "$task" ] || { echo "refused: $refused" >&2; exit 2; }
        sleep 0.5
        return
    }
    answer=$(pick 'sum(int(n) * {"s": 1, "m": 60}[u] for n, u in re.findall(r"(\d+)([sm])", j["lease"])), j["turn"],
        *(a["token"] for a in j["assignments"])' <<<"$answer")
    [ -n "$answer" ] || { sleep 0.5; return; }
    read -r lease turn assigned <<<"$answer"
    known=1
    until=$((sent + lease)) beat_at=$((sent + lease / 3))
}

heartbeat() {
    local sent answer
    sent=$(now) number=$((number + 1)) beat_at=$((sent + 1))
    answer=$(post "$runner/heartbeat" "{\"incarnation\": \"$incarnation\", \"number\": $number, \"running\": [$(listed)]}")
    case $? in
        0) ;;
        22) known=''; return ;; # it does not know this runner: registering settles it
        *) return ;;
    esac
    case $(pick 'j.get("register")' <<<"$answer") in
        True) known='' ;;
        False | None) until=$((sent + lease)) beat_at=$((sent + lease / 3)) ;;
    esac
    stop "$answer"
}

# Answers each order to stop, also for what is not here.
stop() {
    local other its
    [[ "$1" != *'"stop":[]'* ]] || return # most often; reading JSON takes a moment
    while read -r other its; do
        if [ "$its" = "$token" ]; then
            end cancelled TERM
        elif [[ "$over" != *" $its "* ]]; then
            give_back "$other" "$its" handback "it does not run here" || return
        fi
    done < <(pick '"\n".join(o["id"] + " " + o["token"] for o in j.get("stop", []))' <<<"$1" | grep .)
}

give_back() { # give_back ID TOKEN OUTCOME WHY
    post "$runner/reports" "$(report "$1" "$2" "\"report\": \"end\", \"outcome\": \"$3\", \"message\": \"$4\"")" \
        >/dev/null && over+="$2 "
}

# Takes what is assigned, unless it was here before: what is unconfirmed is sent again.
take() {
    local delivery taken
    delivery=$(curl -sf -m 2 "$runner/assignments?wait=1s") || return
    stop "$delivery"
    taken=$(pick '" ".join((j["assignments"] + [{"id": "", "token": ""}])[0][k] for k in ("id", "token"))' <<<"$delivery")
    read -r task token <<<"$taken"
    if [ -z "$task" ] || [[ "$over" == *" $token "* ]]; then
        task='' token=''
        return
    fi
    if [ "$(cut -d. -f2 <<<"$token")" -lt "$turn" ] && [[ " $assigned " != *" $token "* ]]; then
        give_back "$task" "$token" refused "it is too old"
        task='' token=''
        return
    fi
    over+="$token " ended_as=''
    python3 -c 'import json, os, sys
a = json.loads(sys.argv[1])["assignments"][0]
spec = a["task"].get("spec", {})
os.environ.update(spec.get("env", {}), LONGSHORE_TASK=a["id"], LONGSHORE_TOKEN=a["token"], LONGSHORE_ATTEMPT=str(a["attempt"]))
os.chdir(spec.get("workdir") or ".")
os.execvp(spec["command"][0], spec["command"])' "$delivery" </dev/null &
    pid=$!
    unsaid=$(report "$task" "$token" '"report": "start"')
}

end() { # end OUTCOME SIGNAL: whole groups at once
    [ -n "$pid" ] || return
    [ -n "$ended_as" ] || { ended_as=$1 kill_at=$(($(now) + 5)); }
    kill "-$2" -- "-$pid" 2>/dev/null
}

# Says how it ended, if it has; the report is sent until it is taken, and the task listed as running until then.
ended() {
    local code outcome
    [ -n "$pid" ] && [ -z "$(jobs -r)" ] || return
    wait "$pid"
    code=$?
    kill -KILL -- "-$pid" 2>/dev/null # and what it left behind
    pid='' outcome=failed
    [ $code -ne 0 ] || outcome=succeeded
    unsaid="{\"reports\": [${unsaid:+$unsaid, }$(report "$task" "$token" \
        "\"report\": \"end\", \"outcome\": \"${ended_as:-$outcome}\", \"exit_code\": $code")]}"
}

send() {
    post "$runner/reports" "$unsaid" >/dev/null || { sleep 0.5; return; }
    unsaid=''
    [ -n "$pid" ] || { task='' token=''; }
}

has_lease() { [ "$(now)" -lt $((until - 5)) ]; }

while [ -z "$leave_by" ] || { [ -n "$task" ] && [ "$(now)" -lt "$leave_by" ]; }; do
    if [ -n "$leave_by" ] || ! has_lease; then
        end handback KILL
        known=''
    fi
    [ -z "$ended_as" ] || [ "$(now)" -lt "$kill_at" ] || end "$ended_as" KILL
    ended
    # What lost its lease ends before there is another.
    if [ -z "$known$leave_by" ] && { [ -z "$pid" ] || has_lease; }; then
        register
    elif [ -n "$known" ] && [ "$(now)" -ge "$beat_at" ]; then
        heartbeat
    elif [ -n "$unsaid" ]; then
        send
    elif [ -n "$known" ] && [ -z "$task" ]; then
        take
    else
        sleep 0.2
    fi
done
post "$runner/leave" "{\"incarnation\": \"$incarnation\", \"handback\": []}" >/dev/null
