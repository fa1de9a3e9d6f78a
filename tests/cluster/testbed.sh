#!/usr/bin/env bash
# A real SLURM on one machine, for the tests of the cluster profile: controller, accounting and three pretended nodes.
#
#   testbed.sh install     the Debian packages (root; nothing is started)
#   testbed.sh check       exit 0 where `up` can work, else say why not and exit 3
#   testbed.sh up          start it; partition cpu has nodes c1 and c2, partition gpu has node g1 with two declared GPUs
#   testbed.sh down        cancel every job, stop every daemon by its pid, remove the configuration
#   testbed.sh stop|start  the controller alone, for the test of its absence
#   testbed.sh forget      go on without accounting, as a site that has none
#
# Everything lies in $NMFBENCH_TESTBED (default: nmfbench_testbed in the temporary folder), except the configuration:
# the job steps of Snakemake's plugin drop SLURM_CONF from their environment, so it must be in /etc/slurm.
set -euo pipefail

bed=${NMFBENCH_TESTBED:-${TMPDIR:-/tmp}/nmfbench_testbed}
etc=/etc/slurm
mark='# A pretended cluster, written by nmfbench tests/cluster/testbed.sh'
nodes=(c1 c2 g1)
scheduler=(munge slurmctld slurmd slurm-client)
accounting=(slurmdbd mariadb-server-core mariadb-client-core) # the -core packages pull in no init scripts
programs=(munged slurmctld slurmd sbatch sacct slurmdbd mariadbd mariadb mariadb-install-db)

say() { echo "testbed: $*"; }
die() { say "$*" >&2; exit 1; }
cannot() { say "not here: $*"; exit 3; }

ours() { [ ! -e "$etc/slurm.conf" ] || grep -qxF "$mark" "$etc/slurm.conf"; }

check() {
  [ "$(id -u)" = 0 ] || cannot "the daemons are started by root"
  ours || cannot "$etc/slurm.conf is not the test bed's; this is a node of a real cluster"
  local missing=()
  for program in "${programs[@]}"; do command -v "$program" >/dev/null || missing+=("$program"); done
  [ ${#missing[@]} = 0 ] || cannot "missing programs: ${missing[*]} ($0 install)"
  getent hosts "$(hostname -s)" >/dev/null || cannot "the host name $(hostname -s) does not resolve; add it to /etc/hosts"
}

install_packages() {
  [ "$(id -u)" = 0 ] || cannot "packages are installed by root"
  command -v apt-get >/dev/null || cannot "no apt-get; only Debian's packages were tried"
  ours || cannot "$etc/slurm.conf is not the test bed's; this is a node of a real cluster"
  # "invoke-rc.d: policy-rc.d denied execution" is harmless: the daemons are started below
  export DEBIAN_FRONTEND=noninteractive
  { timeout 120 apt-get update && timeout 300 apt-get install --yes --no-install-recommends \
      "${scheduler[@]}" "${accounting[@]}"; } >"${TMPDIR:-/tmp}/testbed_install.log" 2>&1 ||
    cannot "the packages could not be installed: $(tail -n 1 "${TMPDIR:-/tmp}/testbed_install.log")"
}

# await SECONDS WHAT COMMAND...: until the command succeeds
await() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $end ]; then
      tail -n 5 "$bed"/log/*.log >&2 || true
      die "$what did not come up"
    fi
    sleep 0.2
  done
}

# A daemon that kept our stdout open would hang whoever reads it.
detached() { "$@" </dev/null >/dev/null 2>&1; }

configure() {
  local host
  host=$(hostname -s)
  mkdir -p "$etc"
  cat >"$etc/slurm.conf" <<CONF
$mark
ClusterName=testbed
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
SlurmctldPidFile=$bed/run/slurmctld.pid
SlurmctldLogFile=$bed/log/slurmctld.log
StateSaveLocation=$bed/state
SlurmdPidFile=$bed/run/slurmd.%n.pid
SlurmdLogFile=$bed/log/slurmd.%n.log
SlurmdSpoolDir=$bed/spool/%n
# nodes may claim more than the machine has, and are watched without cgroups
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=bf_interval=5,sched_interval=5
ReturnToService=2
KillWait=15
MailProg=/bin/true
JobSubmitPlugins=lua
GresTypes=gpu
NodeName=c[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=32 RealMemory=64000
NodeName=g1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17003 CPUs=32 RealMemory=64000 Gres=gpu:2
PartitionName=cpu Nodes=c[1-2] Default=YES MaxTime=3-00:00:00 DefMemPerCPU=500
PartitionName=gpu Nodes=g1 MaxTime=5-00:00:00 DefMemPerCPU=500
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=16819
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
CONF
  # a declared GPU needs a character device; nothing opens it
  printf 'NodeName=g1 Name=gpu File=%s\n' /dev/null /dev/zero >"$etc/gres.conf"
  # what a strict site asks of every job: the profile has to satisfy it
  cat >"$etc/job_submit.lua" <<'LUA'
function slurm_job_submit(job, partitions, user)
   local gpus = (job.tres_per_job or "") .. (job.tres_per_node or "")
   local has_gpu = string.find(gpus, "gpu") ~= nil
   if job.time_limit == slurm.NO_VAL then
      slurm.log_user("site rule: every job states its time limit")
      return slurm.ERROR
   end
   if job.partition == "gpu" and not has_gpu then
      slurm.log_user("site rule: jobs in partition gpu ask for a GPU")
      return slurm.ERROR
   end
   if job.partition ~= "gpu" and has_gpu then
      slurm.log_user("site rule: partition " .. job.partition .. " has no GPUs")
      return slurm.ERROR
   end
   return slurm.SUCCESS
end
function slurm_job_modify(job, record, partitions, user) return slurm.SUCCESS end
return slurm.SUCCESS
LUA
}

start_munge() {
  munge -n >/dev/null 2>&1 && return
  install -d -o munge -g munge -m 0755 /run/munge
  [ -s /etc/munge/munge.key ] || runuser -u munge -- mungekey --create
  detached runuser -u munge -- munged
  cp /run/munge/munged.pid "$bed/run/munged.pid" 2>/dev/null || true
  await 10 munged munge -n
  [ -s "$bed/run/munged.pid" ] || cp /run/munge/munged.pid "$bed/run/munged.pid"
}

start_accounting() {
  mkdir -p "$bed/db" "$bed/run/mysql"
  chown slurm: "$bed/db" "$bed/run/mysql" # the -core packages make no user of their own
  mariadb-install-db --no-defaults --user=slurm --datadir="$bed/db" --auth-root-authentication-method=socket \
    --skip-test-db >"$bed/log/database_install.log" 2>&1
  detached mariadbd --no-defaults --user=slurm --datadir="$bed/db" --socket="$bed/run/mysql/socket" \
    --pid-file="$bed/run/mysql/pid" --bind-address=127.0.0.1 --port=13306 --innodb-buffer-pool-size=64M \
    --log-error="$bed/log/mariadb.log" </dev/null >/dev/null 2>&1 & # the waiting shell holds them open too
  local sql=(mariadb --no-defaults --socket="$bed/run/mysql/socket")
  await 60 mariadbd "${sql[@]}" -e 'SELECT 1'
  local password
  password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  "${sql[@]}" -e "CREATE DATABASE slurm_acct_db; CREATE OR REPLACE USER slurm@localhost
    IDENTIFIED BY '$password'; GRANT ALL ON slurm_acct_db.* TO slurm@localhost"
  (
    umask 077
    cat >"$etc/slurmdbd.conf" <<CONF
$mark
DbdHost=localhost
DbdPort=16819
SlurmUser=root
PidFile=$bed/run/slurmdbd.pid
LogFile=$bed/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=13306
StorageUser=slurm
StoragePass=$password
StorageLoc=slurm_acct_db
CONF
  )
  detached slurmdbd
  await 60 slurmdbd sacctmgr --noheader list cluster
  local what
  for what in "cluster testbed" "account bench Description=bench Organization=bench" \
    "user $(id -un) Account=bench DefaultAccount=bench"; do
    # shellcheck disable=SC2086 # the words are arguments
    sacctmgr --immediate add $what >/dev/null 2>&1 || true # the cluster may have registered itself already
  done
}

controller_is_up() { timeout 5 scontrol ping | grep -q 'is UP'; }
nodes_are_idle() { [ "$(sinfo --noheader --Node -o '%N %T' | sort -u | grep -c ' idle$')" = ${#nodes[@]} ]; }

start_controller() {
  detached slurmctld
  await 30 slurmctld controller_is_up
}

up() {
  check
  if [ -e "$bed/run/slurmctld.pid" ]; then
    trap - EXIT
    die "already up in $bed; $0 down"
  fi
  rm -rf "$bed"
  mkdir -p "$bed"/{log,run,state,spool}
  configure
  start_munge
  start_accounting
  start_controller
  local node
  for node in "${nodes[@]}"; do detached slurmd -N "$node"; done
  await 30 slurmd nodes_are_idle
  sinfo --Node -o '%N %P %T %c %m %G'
}

# stop PIDFILE SECONDS: ask, wait, then kill (a slurmd without its controller ignores SIGTERM)
stop() {
  local pid
  pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] && kill "$pid" 2>/dev/null || return 0
  local end=$((SECONDS + $2))
  while kill -0 "$pid" 2>/dev/null; do
    if [ $SECONDS -ge $end ]; then
      kill -KILL "$pid" 2>/dev/null || true
      say "killed $(basename "$1") ($pid)"
      break
    fi
    sleep 0.1
  done
  rm -f "$1"
}

queue_is_empty() { [ -z "$(timeout 10 squeue --noheader --states=all --format=%t | grep -E 'PD|R|CG|CF|S')" ]; }

# Without control groups SLURM loses sight of a process whose parent ended before it.
end_orphans() {
  local process
  for process in /proc/[0-9]*; do
    grep -qszx 'SLURM_CLUSTER_NAME=testbed' "$process/environ" || continue
    kill -KILL "${process#/proc/}" 2>/dev/null || continue
    say "killed ${process#/proc/}, left by a job"
  done
}

down() {
  [ -d "$bed" ] || return 0
  ours || die "$etc/slurm.conf is not the test bed's"
  if [ -e "$etc/slurm.conf" ] && timeout 10 squeue --noheader >/dev/null 2>&1; then
    timeout 10 squeue --noheader --format=%i | xargs --no-run-if-empty timeout 10 scancel || true
    local end=$((SECONDS + 25))
    until queue_is_empty || [ $SECONDS -ge $end ]; do sleep 0.5; done
  fi
  local node
  for node in "${nodes[@]}"; do stop "$bed/run/slurmd.$node.pid" 10; done
  stop "$bed/run/slurmctld.pid" 10
  stop "$bed/run/slurmdbd.pid" 10
  stop "$bed/run/mysql/pid" 20
  stop "$bed/run/munged.pid" 10
  end_orphans
  rm -f "$etc"/{slurm.conf,gres.conf,slurmdbd.conf,job_submit.lua}
  [ "${KEEP:-0}" = 1 ] || rm -rf "$bed"
}

forget() {
  stop "$bed/run/slurmctld.pid" 10
  stop "$bed/run/slurmdbd.pid" 10
  stop "$bed/run/mysql/pid" 20
  sed -i -e '/^Accounting/d' -e '$a AccountingStorageType=accounting_storage/none' "$etc/slurm.conf"
  start_controller
  scontrol reconfigure
  await 60 "nodes after the restart" nodes_are_idle
}

case ${1:-} in
  install) install_packages ;;
  check) check ;;
  up)
    trap '[ $? = 0 ] || KEEP=1 down' EXIT # half a cluster helps nobody; its logs may
    up
    ;;
  down) down ;;
  stop) stop "$bed/run/slurmctld.pid" 10 ;;
  start) start_controller ;;
  forget) forget ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
