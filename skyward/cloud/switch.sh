# Ends this machine when its lifetime is over, or when nobody has renewed its lease for too long.
#
#   sh switch LIFETIME LEASE USER NAME     seconds, 0 is never; who may renew; under which name its age is kept
#
# Time is what /proc/uptime says, in hundredths of a second: no clock that can be set matters. The lease is renewed by
# changing what the file `lease` contains. What has been used of both outlives this process, and the lifetime outlives
# a reboot, too. As root nothing but these commands is needed: chown, dd, mv, sleep and one that switches off.
lifetime=${1:?} lease=${2:?} user=${3:-} name=${4:-machine} owner=${3:-}
run=${SKYWARD_RUN:-/run/skyward} lib=${SKYWARD_LIB:-/var/lib/skyward}
usual=/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin
PATH=${PATH%":$usual"}:$usual

# A machine that cannot start one more process makes a shell give up; this one begins anew, which needs none.
trap 'exec /bin/sh "$0" "$lifetime" "$lease" "$user" "$name"' EXIT
trap 'trap - EXIT; exit 0' TERM INT
trap '' HUP
{ echo -1000 >/proc/self/oom_score_adj; } 2>/dev/null

look_at_clock() {
  read -r up _ </proc/uptime
  now=$((${up%.*} * 100 + 1${up#*.} - 100))
}

is_number() {
  case $1 in '' | -*[!0-9]* | *[!0-9-]* | -) return 1 ;; esac
}

has_systemd() {
  { read -r init </proc/1/comm; } 2>/dev/null
  [ "$(id -u)" = 0 ] && [ -d /run/systemd/system ] && [ "$init" = systemd ] && command -v systemctl >/dev/null
}

# In the background, so that one that hangs is followed by another.
switch_off() {
  printf '%s\n' "$1" >"$run/ended"
  { echo "skyward: $1" >/dev/console; } 2>/dev/null
  how='shutdown -P now' again=$how
  if command -v poweroff >/dev/null; then how='poweroff -f' again=$how; fi
  if has_systemd; then how='systemctl poweroff --force' again="$how --force"; fi
  while :; do
    $how &
    sleep 10
    how=$again
  done
}

look_at_clock
began=''
{ read -r began <"$run/began"; } 2>/dev/null
if ! is_number "$began"; then
  used=''
  { read -r used <"$lib/used-$name"; } 2>/dev/null
  is_number "$used" || used=0
  began=$((now - used * 100))
  echo "$began" >"$run/began"
fi
heard='' seen=''
{ read -r heard seen <"$run/heard"; } 2>/dev/null
is_number "$heard" || heard=$now

# Ten looks in a lease, but at most one a second and at least one in five.
pulse=$((lease / 10))
[ "$lease" -gt 0 ] && [ "$pulse" -lt 5 ] || pulse=5
[ "$pulse" -ge 1 ] || pulse=1
noted=$now

while :; do
  if [ -n "$owner" ] && chown "$owner" "$run/lease" 2>/dev/null; then owner=''; fi
  content=$(dd if="$run/lease" bs=64 count=1 2>/dev/null)
  look_at_clock
  if [ "$content" != "$seen" ]; then
    seen=$content heard=$now
    printf '%s %s\n' "$heard" "$seen" >"$run/heard"
  fi
  [ -e "$run/armed" ] || echo "$$" >"$run/armed"
  age=$(((now - began) / 100)) silence=$(((now - heard) / 100))
  [ "$lifetime" -eq 0 ] || [ "$age" -lt "$lifetime" ] || switch_off "its lifetime of $lifetime s is over"
  [ "$lease" -eq 0 ] || [ "$silence" -lt "$lease" ] || switch_off "nobody has renewed its lease for $silence s"
  if [ $((now - noted)) -ge 3000 ]; then
    { echo "$age" >"$lib/used-$name.new" && mv -f "$lib/used-$name.new" "$lib/used-$name"; } 2>/dev/null
    noted=$now
  fi
  wait=$pulse
  [ "$lifetime" -eq 0 ] || [ $((lifetime - age)) -ge "$wait" ] || wait=$((lifetime - age))
  [ "$lease" -eq 0 ] || [ $((lease - silence)) -ge "$wait" ] || wait=$((lease - silence))
  sleep "$wait"
done
