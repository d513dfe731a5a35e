# Whether the switch is armed, as whoever logs in here can see it.   sh verify LEASE   seconds, 0 is none
run=${SKYWARD_RUN:-/run/skyward}

is_armed() {
  pid=''
  { read -r pid <"$run/armed"; } 2>/dev/null
  [ -n "$pid" ] && [ -d "/proc/$pid" ] && { [ "$1" -eq 0 ] || [ -w "$run/lease" ]; }
}

tries=0
until is_armed "$1"; do
  tries=$((tries + 1))
  if [ "$tries" -ge 300 ]; then
    if [ -e "$run/armed" ]; then echo "the switch does not run any more, or $(id -un) may not renew its lease" >&2
    else echo 'the switch that ends this machine was not armed when it booted' >&2; fi
    tail -n 20 /var/log/cloud-init-output.log >&2 2>/dev/null
    exit 1
  fi
  sleep 0.1 2>/dev/null || sleep 1
done
