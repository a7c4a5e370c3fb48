# shellcheck shell=bash
# For the other scripts, which source it: what is downloaded or compiled for
# the tests is kept in $cache, outside the clone, and .tools/NAME is a link to
# it. A second clone finds it there and fetches nothing.
cache=${STRONGROOM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/strongroom}
tools=$PWD/.tools

# The digest of standard input, short.
digest() { sha256sum | cut -c 1-16; }

# provide NAME ENTRY COMMAND...: makes .tools/NAME a link to ENTRY in the
# cache; ENTRY names the version and the digest of everything it is made from.
# If it is missing, COMMAND fills the folder whose name is added to its
# arguments. That folder is renamed to ENTRY once it is complete. A lock makes
# another clone wait that wants the same.
provide() {
    local name=$1 entry lock
    entry=$cache/$2-$(uname -m)
    shift 2
    mkdir -p "$cache" "$tools"
    if [[ ! -d $entry ]]; then
        exec {lock}>"$entry.lock"
        flock "$lock"
        if [[ ! -d $entry ]]; then
            rm -rf "$entry.new"
            mkdir "$entry.new"
            # Without the lock's descriptor: a process that outlives the command would keep it.
            if ! "$@" "$entry.new" {lock}>&-; then
                exec {lock}>&-
                return 1
            fi
            mv -T "$entry.new" "$entry"
        fi
        exec {lock}>&-
    fi
    link "$entry" "$tools/$name"
}

# link ENTRY NAME: replaces NAME in one step.
link() {
    if [[ $(readlink "$2") == "$1" ]]; then return; fi
    # A folder, as earlier versions of these scripts made them.
    if [[ -d $2 && ! -L $2 ]]; then rm -rf "$2"; fi
    ln -sfn "$1" "$2.$$"
    mv -T "$2.$$" "$2"
}
