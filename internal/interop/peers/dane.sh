# shellcheck shell=bash
# The DANE laboratory: posttls-finger as a second opinion on what the tests of this folder publish in signed zones, which nsd
# serves and unbound validates. Postfix's three hosts are there too; the tests bring the rest.
# shellcheck disable=SC2034,SC2154 # read and set by room
# shellcheck source-path=SCRIPTDIR source=postfix.sh
. "$here/postfix.sh"
packages+=(nsd unbound ldnsutils)
tests='^TestDANE'
