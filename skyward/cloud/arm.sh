# Arms the switch that ends this machine: keeps it where it survives, and starts it outside of every session.
#
#   sh arm SWITCH LIFETIME LEASE USER NAME     the text of the switch, then its arguments
#
# As root, as early in the life of the machine as possible. Repeated, it leaves a switch that is armed as it is.
switch=$1
shift
run=${SKYWARD_RUN:-/run/skyward} lib=${SKYWARD_LIB:-/var/lib/skyward}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin
umask 022

is_armed() {
  pid=''
  { read -r pid <"$run/armed"; } 2>/dev/null
  [ -n "$pid" ] && grep -q "$lib/switch" "/proc/$pid/cmdline" 2>/dev/null
}

has_systemd() {
  { read -r init </proc/1/comm; } 2>/dev/null
  [ "$(id -u)" = 0 ] && [ -d /run/systemd/system ] && [ "$init" = systemd ] && command -v systemctl >/dev/null
}

# No dependencies: it runs before, and apart from, anything else that may or may not come up.
as_service() {
  has_systemd && cat >/etc/systemd/system/skyward-switch.service <<END || return 1
[Unit]
Description=Ends this machine when its time is over
DefaultDependencies=no
StartLimitIntervalSec=0

[Service]
ExecStart=/bin/sh $lib/switch $*
Restart=always
RestartSec=1
OOMScoreAdjust=-1000

[Install]
WantedBy=sysinit.target
END
  systemctl enable skyward-switch.service 2>/dev/null
  systemctl start --no-block skyward-switch.service
}

as_process() {
  with=''
  if command -v setsid >/dev/null; then with=setsid; fi
  cd / && $with /bin/sh "$lib/switch" "$@" </dev/null >/dev/null 2>&1 &
}

if ! { mkdir -p "$run" && chmod 755 "$run"; }; then
  echo "cannot make $run" >&2
  exit 1
fi
mkdir -p "$lib" 2>/dev/null && [ -w "$lib" ] || lib=$run
if is_armed; then exit 0; fi

# Without a name for it, whoever logs in may renew. Its place on the disk is taken now: a full one could not stop it.
if [ ! -e "$run/lease" ]; then
  printf '%020d\n' 0 >"$run/lease"
  if [ -n "${3:-}" ]; then chmod 600 "$run/lease"; else chmod 666 "$run/lease"; fi
fi
rm -f "$run/armed" "$lib/switch.new"
printf '%s\n' "$switch" >"$lib/switch.new" && mv -f "$lib/switch.new" "$lib/switch"
as_service "$@" || as_process "$@"

tries=0
until is_armed; do
  tries=$((tries + 1))
  if [ "$tries" -ge 50 ]; then
    echo 'the switch does not start' >&2
    exit 1
  fi
  sleep 0.1 2>/dev/null || sleep 1
done
