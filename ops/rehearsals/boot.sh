#!/bin/sh
# Turns fresh namespaces into a host, and becomes its systemd. Run by host.py: boot.sh STAGE PYTHON PACKAGES SOURCE INTERPRETER
set -eu
stage=$1 python=$2 packages=$3 source=$4 interpreter=$5

mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$stage"
mkdir "$stage/etc" "$stage/etc.work" "$stage/var" "$stage/var.work"

# What `pip install` would have put here, where the interpreter and the packages are out of reach of those who see no /root.
home=$stage/opt/stream-worker
mkdir -p "$home/bin" "$home/python" "$home/packages" "$home/source"
mount --rbind "$python" "$home/python"
mount --rbind "$packages" "$home/packages"
mount --rbind "$source" "$home/source"
cat >"$home/bin/stream-worker" <<PROGRAM
#!/bin/sh
export PYTHONPATH=/opt/stream-worker/source:/opt/stream-worker/packages LD_LIBRARY_PATH=/opt/stream-worker/python/lib
export PYTHONDONTWRITEBYTECODE=1
exec /opt/stream-worker/python/bin/$interpreter -m stream_worker "\$@"
PROGRAM
chmod 755 "$home/bin/stream-worker"

# This machine's files, but what is written goes with the host.
for folder in etc var; do
  mount -t overlay -o "lowerdir=/$folder,upperdir=$stage/$folder,workdir=$stage/$folder.work" overlay "/$folder"
done
mount --rbind "$stage/opt" /opt
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --make-rshared /  # as a booted system has it: credentials reach their service by it

# Our units, and a skeleton of what they lean on: none of this machine's own units is started a second time.
mount -t tmpfs -o mode=755 tmpfs /etc/systemd/system
cp /opt/stream-worker/source/ops/systemd/*.service /opt/stream-worker/source/ops/systemd/*.target /etc/systemd/system/
mkdir -p /run/skeleton/service.d /run/logs
for target in sysinit basic shutdown network-online multi-user default; do
  printf '[Unit]\nDefaultDependencies=no\n' >"/run/skeleton/$target.target"
done
printf '[Service]\nStandardOutput=append:%s\nStandardError=append:%s\n' /run/logs/%n /run/logs/%n >/run/skeleton/service.d/logs.conf
systemd-sysusers /opt/stream-worker/source/ops/systemd/stream-worker.sysusers.conf

exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=rehearsal \
  SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/skeleton SYSTEMD_LOG_TARGET=null \
  /lib/systemd/systemd --system --unit=default.target --show-status=0
