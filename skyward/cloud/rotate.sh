# Gives this machine a new host key and makes its sshd show it; sessions that are open stay open.
# As root, or as the user its sshd runs as; with "$SSH_CONNECTION" as first argument. Prints the new public key behind a mark.
set -euf
umask 077
renice -n 19 $$ >/dev/null 2>&1 || :  # somebody waits for tasks to begin, and nobody for this
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

fail() {
  echo "$1" >&2
  exit 1
}

refuse() {
  [ "$(id -u)" = 0 ] || fail "$1: $(id -un) is not root and may not use sudo without a password"
  fail "$1"
}

command -v ssh-keygen >/dev/null || fail 'there is no ssh-keygen'

# The sshd that listens is an ancestor of ours: the one that is called by its path, or says that it listens.
# None is found where each connection has an sshd of its own; those read their keys anew.
listener='' config='' pid=$$
while [ "$pid" -gt 0 ]; do
  name='' parent=0
  while read -r key value _; do
    case $key in Name:) name=$value ;; PPid:) parent=$value ;; esac
  done <"/proc/$pid/status"
  if [ "$name" = sshd ]; then
    title=$(tr '\0' ' ' <"/proc/$pid/cmdline")
    case $title in /* | *'[listener]'*) listener=$pid && break ;; esac
  fi
  pid=$parent
done
if [ -n "$listener" ]; then
  sshd=$(readlink "/proc/$listener/exe" 2>/dev/null || true)
  [ -x "$sshd" ] || sshd=$(command -v sshd) || fail 'there is no sshd'
  previous=''
  for word in $title; do
    [ "$previous" != -f ] || config=$word
    previous=$word
  done
else
  sshd=$(command -v sshd) || fail 'there is no sshd'
fi

# The key that is shown now: the first ed25519 key of its configuration.
paths=$("$sshd" -T ${config:+-f "$config"} 2>/dev/null | sed -n 's/^hostkey //p')
[ -n "$paths$config" ] || paths=/etc/ssh/ssh_host_ed25519_key
key=''
for path in $paths; do
  case $(ssh-keygen -y -P '' -f "$path" 2>/dev/null </dev/null) in ssh-ed25519\ *) key=$path && break ;; esac
done
[ -n "$key" ] || refuse 'no ed25519 host key of its sshd can be read'
[ -w "${key%/*}" ] || refuse "cannot write to ${key%/*}"
[ -z "$listener" ] || kill -0 "$listener" 2>/dev/null || refuse 'cannot reload its sshd'

rm -f "$key.new" "$key.new.pub"
ssh-keygen -q -t ed25519 -N '' -C '' -f "$key.new" </dev/null
chmod 644 "$key.new.pub"
read -r kind text _ <"$key.new.pub"
mv -f "$key.new.pub" "$key.pub"
mv -f "$key.new" "$key"
if command -v restorecon >/dev/null; then restorecon "$key" "$key.pub" || true; fi

"$sshd" -t ${config:+-f "$config"} || fail 'its sshd would not start again with the new key'
set -- ${1:-}
port=${4:-} door=''
case ${3:-} in
  *.*.*.*) door=$(IFS=.; set -- $3; printf '|%02X%02X%02X%02X' "$4" "$3" "$2" "$1") ;;
esac

# Where its stack begins is another place with every program that a process becomes, and readable for few others.
birth() {
  line='' place=''
  { read -r line <"/proc/$listener/stat"; } 2>/dev/null || return 0
  set -- ${line##*) }
  shift 25
  place=$1
}

# A sshd that is told to reload closes its doors, begins anew, reads its keys, and opens them again.
if [ -n "$listener" ]; then
  birth
  before=$place tries=0
  kill -HUP "$listener"
  while [ "$tries" -lt 40 ]; do
    birth
    if [ -n "$before" ] && [ "$before" != 0 ] && [ -n "$place" ] && [ "$place" != "$before" ] && [ -n "$port" ] &&
      grep -Eq " (0+$door):$(printf %04X "$port") 0+:0000 0A " /proc/net/tcp /proc/net/tcp6 2>/dev/null; then
      echo "skyward-host-key: $kind $text"
      exit 0
    fi
    tries=$((tries + 1))
    sleep 0.05 2>/dev/null || sleep 1
  done
fi

# Nothing of that could be seen: done when whoever connects now is shown the new key.
if [ -n "$port" ] && command -v ssh-keyscan >/dev/null; then
  tries=0
  until ssh-keyscan -T 2 -t ed25519 -p "$port" "$3" 2>/dev/null | grep -qF " $kind $text"; do
    tries=$((tries + 1))
    [ "$tries" -lt 50 ] || fail 'its sshd still shows the old key'
    sleep 0.1 2>/dev/null || sleep 1
  done
fi
echo "skyward-host-key: $kind $text"
