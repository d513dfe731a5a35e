# Writes down when the cloud announces that it wants this machine back, for our agent to read.
#
# That is the spot instance action of EC2's metadata service, which AWS asks to look at every five seconds:
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html (read 2026-11-20).
# Ends by itself where there is no such service, and on machines that are not taken back.
run=${SKYWARD_RUN:-/run/skyward}
base=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}
base=${base%/}/latest

fetch() { # METHOD PATH HEADER
  if command -v curl >/dev/null; then
    curl -sf -m 3 --noproxy '*' -X "$1" -H "$3" "$base/$2"
  else
    python3 -c 'import sys, urllib.request as u
method, address, header = sys.argv[1:]
asked = u.Request(address, method=method, headers=dict([header.split(": ")]))
print(u.build_opener(u.ProxyHandler({})).open(asked, timeout=3).read().decode())' "$1" "$base/$2" "$3" 2>/dev/null
  fi
}

ask() { fetch GET "meta-data/$1" "X-aws-ec2-metadata-token: $token"; }
login() { token=$(fetch PUT api/token 'X-aws-ec2-metadata-token-ttl-seconds: 21600'); }

tries=0
until login && life=$(ask instance-life-cycle); do
  tries=$((tries + 1))
  [ "$tries" -lt 12 ] || exit 0
  sleep 5
done
[ "$life" = spot ] || exit 0
while :; do
  if notice=$(ask spot/instance-action); then
    printf '%s\n' "$notice" >"$run/notice.new" && mv -f "$run/notice.new" "$run/notice"
  else
    ask instance-life-cycle >/dev/null || login # tokens run out
  fi
  sleep 5
done
