#!/bin/sh
# Creates the secrets that the compose files read, once: PostgreSQL's password, the address with it, and the vault's key.
#   sh make-secrets.sh FOLDER
# Run it as root (or `podman unshare sh make-secrets.sh FOLDER`): user 10001 of the image must own the vault's files.
set -eu
umask 077
folder=$1
mkdir -p "$folder"
cd "$folder"
if [ ! -e postgres-password ]; then
    head -c 24 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n' >postgres-password
    printf 'postgresql://vault:%s@postgres:5432/vault\n' "$(cat postgres-password)" >database-url
fi
[ -e master-key ] || head -c 32 /dev/urandom | base64 >master-key
chmod 600 postgres-password database-url master-key
chown 10001:10001 database-url master-key
echo "Copy $folder/master-key to a safe place: losing it loses every connection."
