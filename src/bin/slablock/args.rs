//! What was typed. What it means is in `task`.

use std::ffi::OsString;
use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::time::Duration;
use std::{env, iter};

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, value_parser};

use crate::demo::Role;
use crate::failure::{Failure, USAGE};
use crate::output::{Unwritten, print};
use crate::seconds::{seconds, seconds_above_zero};
use crate::torture::WorkerPlan;

const EXAMPLES: &str = "\
Examples:
  slablock run backup -- rsync -a docs/ /mnt/docs/     one backup at a time
  slablock run backup -n -- rsync -a docs/ /mnt/docs/  ... or none, if one is running
  slablock run --permits 3 encode -- ffmpeg -i a b     at most three at a time
  slablock run --timeout 2.5 report -- make report     give up after two and a half seconds
  slablock status                                      who holds what, and who waits
  slablock average add latency 12.5                    add to a running average
  slablock set greeting hello --expire 60              keep a value for a minute
  slablock get greeting                                print it; exit status 1 if it is not there
  slablock memo --expire 60 -- ./report --all          run it once a minute at the most, for all who ask
  slablock demo                                        see it work, in a few seconds
  slablock torture --seconds 60                        try to break it on this machine

The store is the directory named with --dir, else with SLABLOCK_DIR, else your own, the same one for all that you
run on this machine: .local/state/slablock in the home that /etc/passwd names for you, or /var/tmp/slablock-UID if
you have none that is local and only yours to write to. A home that is away, full or read-only is an error.
`slablock status` says which store it is. Programs exclude each other only in the same store: name it if other
users are to take part.";

const RUN_NOTES: &str = "\
Exit status:
  that of COMMAND, or 128 + N when signal N ended it, and
   75  others held the key, or kept the store from being opened (for two seconds, with -w for so long),
       and waiting was in vain (choose another with -E)
   76  the hold was lost while COMMAND ran (lease over, key removed or evicted), or the store was removed or replaced
  125  slablock itself failed (2 for wrong arguments)
  126  COMMAND was found but could not be started
  127  COMMAND was not found

COMMAND gets standard input and SLABLOCK_DIR, SLABLOCK_KEY and SLABLOCK_TOKEN in its environment.
The token is a number that grows with each grant: let what you write to refuse smaller ones.
SLABLOCK_HOLDS lists what is held around COMMAND: a `slablock run` within another one that holds the same
key, and waits for it, fails with status 125 instead of waiting for ever (not with --timeout, not in the
background of a script, not from another PID namespace, and not where that variable was removed, as by
`env -i`, and by sudo by default: there it waits).
Every signal that can be caught is passed on to COMMAND, but for those that stop a process (TSTP, TTIN,
TTOU), CHLD and PIPE; while waiting a signal ends the wait, if it would end a program.

When COMMAND exits, with whatever status, the key is given back: what it leaves running does not keep
it. When a signal ends COMMAND, or slablock (then COMMAND is killed, too), the key stays held until
nothing of what COMMAND started is left, and the next holder is told that this one died. With
--permits this goes for the one permit; with --expire the key is free when the lease is over at the
latest, for nobody renews it. All this is by descriptors that COMMAND and what it starts inherit.
Not guarded is therefore what has closed them: Python's subprocess, Java's ProcessBuilder and most
daemons close them for their children.

With --tree that is guarded, too. A process of slablock's own stands between it and COMMAND and adopts
all that COMMAND starts. The key is given back, and slablock ends (with the status of COMMAND), when the
last of it has ended, a daemon included; signals go to what is left when COMMAND has ended. When slablock
dies, also by what kills its whole process group, or the lease is lost, all of it is killed; what has
privileges of its own, so that it may not be killed, keeps the key. That process (`slablock keep-tree` in
ps) has a session of its own; COMMAND is in the group and at the terminal of slablock. Whoever kills it,
too, kills COMMAND, and what else is left keeps the key by the descriptors that it inherited, if it has
not closed them, as without --tree. Never guarded is what others start on behalf of COMMAND: containers,
ssh, systemd-run, at, cron.

Examples:
  slablock run deploy -- ./deploy.sh
  slablock run deploy --timeout 2.5 -E 0 -- ./deploy.sh
  slablock run deploy -- sh -c 'echo \"$SLABLOCK_TOKEN\" > token && ./deploy.sh'";

const STATUS_NOTES: &str = "\
JSON fields (null where there is nothing to say; with --watch one object a line):
  dir, keys[]: key, key_hex (only if the key is not UTF-8), kind (lock, rlock, semaphore, averager,
    value), tag, tag_hex (only if the tag is not UTF-8), waiters,
    permits: total, used, available
    holders[]: pid, tid, program, command, alive, held_seconds, lease_left_seconds, token
    average: mean, count, total, min, max
    value: bytes, expires_in_seconds (null: it stays)";

const VALUE_NOTES: &str = "\
Exit status:
    0  done
    1  no: there is no such value (of `add`: there is one already); nothing is said
  125  slablock itself failed (2 for wrong arguments)

Values are bytes, 0 to 256 MiB of them unless the store has another limit, and come out as they went in.";

const POP_NOTES: &str = "\
Exit status:
    0  written and deleted
    1  there is no such value; nothing is said
  125  slablock itself failed (2 for wrong arguments); what was not written whole is still there

The value is deleted once all of it is written, so a full disk or a reader that has gone loses nothing. While it is
written, others who pop or change it wait, and so do transactions: a reader that takes its time is for `get`, and
`delete` afterwards. If slablock is killed in the instant between, the value was written and is still there.";

const KEYS_NOTES: &str = "\
Into a pipe or a file keys are written as they are; on a terminal what is not printable is escaped. A key
may have a line end in it: use -0 or --json then. A key with a zero byte, which a program can make, cannot be
named on a command line.

JSON fields (null where there is nothing to say):
  dir, keys[]: key, key_hex (only if the key is not UTF-8), bytes, expires_in_seconds (null: it stays),
    tag, tag_hex (only if the tag is not UTF-8)";

const STATS_NOTES: &str = "\
JSON fields:
  dir, hits, misses, evictions, evictions_for_keys and evictions_for_device (of these, how many for want of
    slots and of room on the device; the others for the size limit), damaged, unkept (all since the store was made),
  bytes_live, bytes_garbage (of the files of large values), bytes_in_slots (of values in slots; the three are what
    settings.size_limit bounds), slots_used (settings.capacity bounds them), made_ms (since 1970),
  volume (bytes of disk, all in all), settings";

const MEMO_NOTES: &str = "\
What COMMAND writes to standard output and to standard error is kept, apart, if its exit status is 0, and
is written out when it has ended: by the one who ran it, by those who waited meanwhile, and by all who
ask later, until it expires. Without --expire that is never; `slablock delete` forgets it.
A COMMAND that failed is not kept: its output and status are for the one who ran it, and the next one who
waits runs it. With --keep-failures the status is kept, too, whatever it is, for all who ask, but never that
of a COMMAND that a signal ended: the next one who waits runs it. So does the next one when the slablock that
runs it is killed, which kills COMMAND, too. Either way not before all that COMMAND has started is gone, so that
it never runs beside itself; what has closed all descriptors that it inherited is not seen.

COMMAND gets an empty standard input, and SLABLOCK_DIR and SLABLOCK_KEY in its environment. Signals are
passed on to it as by `run`; while waiting they end the wait. What it leaves running when it ends is not
waited for, and what that writes is not kept.

Without --key, the key is `memo: ` and COMMAND with its arguments, those between single quotes that have more
in them than letters, digits and -_./:=,@%+: that of `slablock memo -- sh -c 'echo \"hi\"'` is
\"memo: sh -c 'echo \"hi\"'\". One of more than 1,024 bytes is cut, and ends with a hash of all of it;
`slablock keys` shows it. The directory COMMAND is run in and its environment are no part of the key: name one
where they matter.

Exit status:
  that of COMMAND, or 128 + N when signal N ended it, also if nobody reads what it said, and
  125  slablock itself failed (2 for wrong arguments), or could not write what a COMMAND said that ended with 0
  126  COMMAND was found but could not be started
  127  COMMAND was not found

Examples:
  slablock memo --expire 60 -- curl -s https://example.org/rates
  slablock memo --key \"tree of $PWD\" --expire 5 -- git ls-files";

const TORTURE_NOTES: &str = "\
Processes take, hold and give back a few keys of every kind in stores of their own, below DIR (with
--dir, to test its file system; it is made if it is not there) or where temporary files go. They are
killed with SIGKILL and stopped with SIGSTOP at any moment, fork, execute themselves or end while they
hold, let leases run out, and remove keys by force. What each does it writes into a journal outside of the stores; by that, not by
what the stores say, it is judged:
  a lock has one holder at a time, a semaphore never more than its value, and a lease never ends early
  tokens only grow, also when keys are removed and made anew
  a plain file under each lock, read and written without care, counts every hold
  whoever follows a dead holder is told so; nobody is told of the death of one who lives
  sums under averages are exact; a killed add has happened whole or not at all
  nobody waits longer than --bound for what nobody holds (not counted: time in which somebody is
  stopped, or the machine stands still)
  in the end all locks and permits can be had, and the stores are sound

The seed repeats the schedule: whom to strike after which pause, and what each worker tries to do in
which order. It does not repeat how they interleave: that is up to the kernel, and so is which of its
steps a worker gets to before it is killed.

Exit status 0 if nothing was violated; 1 if something was: the evidence is printed, and the directory kept;
125 if slablock itself failed.";

/// Locks, semaphores, averages and values that the programs of one machine share through a
/// directory.
///
/// Nothing to install, no server to run, and nothing stays locked because somebody died.
#[derive(Parser)]
#[command(name = "slablock", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    /// The store's directory [default: $SLABLOCK_DIR, else your own]
    #[arg(short, long, global = true, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    #[command(subcommand)]
    pub verb: Verb,
}

/// `slablock run` without the other subcommands, to set which up takes longer than to run `true`.
#[derive(Parser)]
struct RunAlone {
    #[arg(short, long)]
    dir: Option<PathBuf>,
    #[command(flatten)]
    run: RunArgs,
}

impl Cli {
    /// The arguments of this process, or the one line that says what is wrong with them.
    pub fn typed() -> Result<Cli, Failure> {
        // Scripts say it by the thousand. What it does not understand, the whole parser explains.
        if let Some(run) = Cli::typed_run() {
            return Ok(run);
        }
        Cli::try_parse().map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => help(&error),
            _ => Failure::with_status(USAGE, in_one_line(&error.to_string())),
        })
    }

    fn typed_run() -> Option<Cli> {
        let mut rest = env::args_os().skip(1);
        if rest.next()? != "run" {
            return None;
        }
        let program = iter::once(OsString::from("slablock run"));
        let RunAlone { dir, run } = RunAlone::try_parse_from(program.chain(rest)).ok()?;
        let verb = Verb::Run(run);
        Some(Cli { dir, verb })
    }
}

/// Shows what is no error but an answer, or no arguments at all, and ends with the status for that.
fn help(asked: &clap::Error) -> Failure {
    let status = asked.exit_code() as u8;
    let shown = match asked.use_stderr() || stdout().is_terminal() {
        // In colour.
        true => asked.print().map_err(Unwritten::Failed),
        false => print(asked.render().to_string()),
    };
    match shown {
        Ok(()) | Err(Unwritten::Unread) => Failure::silent(status),
        Err(unwritten) => unwritten.into(),
    }
}

/// The parser writes paragraphs; scripts and logs want a line.
fn in_one_line(paragraphs: &str) -> String {
    let lines = paragraphs
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let wanted = lines.take_while(|line| !line.starts_with("For more information"));
    let line = wanted.collect::<Vec<_>>().join(" ");
    let line = line
        .trim_start_matches("error: ")
        .replace(" Usage: ", "; usage: ");
    format!("{line}; see --help")
}

#[derive(Subcommand)]
pub enum Verb {
    /// Run a command while holding a key, so that it runs only once at a time
    Run(RunArgs),
    /// The process that keeps the tree of a command together
    #[command(hide = true)]
    KeepTree(KeepArgs),
    /// Show who holds what, for how long, and who waits
    Status(StatusArgs),
    /// Keep a running average under a key
    #[command(subcommand)]
    Average(AverageVerb),
    /// Print a value
    #[command(after_help = VALUE_NOTES)]
    Get {
        /// The value's key
        key: OsString,
    },
    /// Set a value, whatever was there
    #[command(after_help = VALUE_NOTES)]
    Set {
        /// Keep expiry and tag of a value that is replaced; --expire and --tag are for a new one
        #[arg(long)]
        keep: bool,
        #[command(flatten)]
        args: SetArgs,
    },
    /// Set a value if there is none; exit status 1 if there is one
    #[command(after_help = VALUE_NOTES)]
    Add(SetArgs),
    /// Add to an integer, and print the sum
    #[command(after_help = VALUE_NOTES)]
    Incr {
        /// The value's key
        key: OsString,
        /// How much, which may be less than nothing
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
        /// What a value counts as that is not there
        #[arg(
            long,
            value_name = "N",
            default_value_t = 0,
            allow_negative_numbers = true
        )]
        default: i64,
        /// Forget one that is made anew after so many seconds [default: never]
        #[arg(long, value_name = "SECONDS", value_parser = seconds_above_zero)]
        expire: Option<Duration>,
        /// Give one that is made anew a tag
        #[arg(long)]
        tag: Option<OsString>,
    },
    /// Print a value and delete it; of all who do, one gets it
    #[command(after_help = POP_NOTES)]
    Pop {
        /// The value's key
        key: OsString,
    },
    /// Delete a value; exit status 1 if there is none
    #[command(after_help = VALUE_NOTES)]
    Delete {
        /// The value's key
        key: OsString,
    },
    /// Give a value another expiry, from now; exit status 1 if there is none
    #[command(after_help = VALUE_NOTES)]
    Touch {
        /// Forget it after so many seconds [default: never]
        #[arg(long, value_name = "SECONDS", value_parser = seconds_above_zero)]
        expire: Option<Duration>,
        /// The value's key
        key: OsString,
    },
    /// List the keys of all values, one a line
    #[command(after_help = KEYS_NOTES)]
    Keys {
        /// End each key with a zero byte instead of a line, as for `xargs -0`
        #[arg(short = '0', long, conflicts_with = "json")]
        null: bool,
        /// Print JSON, which says more of each
        #[arg(long)]
        json: bool,
    },
    /// Run a command once for all who ask, and replay its output to the others
    Memo(MemoArgs),
    /// Show how often values were found, and how much room they take
    #[command(after_help = STATS_NOTES)]
    Stats {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Remove values whose time is over, and print how many
    Expire,
    /// Evict values until the store is within its limits, and print how many
    Cull,
    /// Print how many bytes of disk the store takes
    Volume,
    /// Remove every key, held ones too, and print how many
    Clear,
    /// Remove a key; whoever holds it finds it lost
    Remove {
        /// The key to remove
        key: OsString,
    },
    /// Remove every key that carries a tag, and print how many
    Evict {
        /// The tag that was given with --tag
        tag: OsString,
    },
    /// Verify the store without changing it; exit status 1 if it is not sound
    Check,
    /// Mend a damaged store that nobody is using
    Repair,
    /// Make a copied or restored store one of its own: all values stay, nobody holds anything,
    /// tokens leap
    Adopt {
        /// Its directory, instead of --dir
        #[arg(value_name = "DIR")]
        store: Option<PathBuf>,
    },
    /// Watch real processes contend, die and recover in a temporary store
    Demo,
    /// One process of the demonstration
    #[command(hide = true)]
    DemoWorker(WorkerArgs),
    /// Kill, stop and fork processes at work on stores of their own, and judge what comes of it
    Torture(TortureArgs),
    /// One process of the torture
    #[command(hide = true)]
    TortureWorker(WorkerPlan),
}

#[derive(Args)]
#[command(after_help = RUN_NOTES)]
pub struct RunArgs {
    /// Fail at once if the key is held
    #[arg(short, long, conflicts_with = "timeout")]
    pub nonblock: bool,
    /// Wait at most so long, fractions allowed [default: as long as it takes]
    #[arg(short = 'w', long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// Exit status when others held the key
    #[arg(short = 'E', long, value_name = "STATUS", default_value_t = 75)]
    pub conflict_exit_code: u8,
    /// Let so many run at a time [default: a lock, so one]
    #[arg(short, long, value_name = "N", value_parser = value_parser!(u32).range(1..=65_535))]
    pub permits: Option<u32>,
    /// Hold by a lease that is renewed while COMMAND runs; end COMMAND if it is lost
    #[arg(long, value_name = "SECONDS", value_parser = seconds_above_zero)]
    pub expire: Option<Duration>,
    /// Mark the key, for `slablock evict TAG`
    #[arg(long)]
    pub tag: Option<OsString>,
    /// Hold the key until everything that COMMAND started has ended, and end that if slablock dies
    #[arg(long)]
    pub tree: bool,
    /// Say nothing about waiting or dead predecessors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say when the key was acquired, with which token, and in which store
    #[arg(short, long)]
    pub verbose: bool,
    /// What to hold: any name of 1 to 1,024 bytes
    pub key: OsString,
    /// The command to run, with its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// Under which numbers the keeper has what slablock gave it, and what it is to run.
#[derive(Args)]
pub struct KeepArgs {
    pub line: i32,
    pub beacon: i32,
    pub witness: i32,
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

#[derive(Args)]
#[command(after_help = STATUS_NOTES)]
pub struct StatusArgs {
    /// Only this key
    pub key: Option<OsString>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Show it again each second until interrupted
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Args)]
pub struct SetArgs {
    /// Forget it after so many seconds, fractions allowed [default: never]
    #[arg(long, value_name = "SECONDS", value_parser = seconds_above_zero)]
    pub expire: Option<Duration>,
    /// Mark it, for `slablock evict TAG`
    #[arg(long)]
    pub tag: Option<OsString>,
    /// The value's key
    pub key: OsString,
    /// The value [default: standard input, all of it]
    #[arg(allow_negative_numbers = true)]
    pub value: Option<OsString>,
}

#[derive(Args)]
#[command(after_help = MEMO_NOTES)]
pub struct MemoArgs {
    /// Run it again after so many seconds, fractions allowed [default: never]
    #[arg(long, value_name = "SECONDS", value_parser = seconds_above_zero)]
    pub expire: Option<Duration>,
    /// Under which key to keep it [default: the command]
    #[arg(long)]
    pub key: Option<OsString>,
    /// Mark it, for `slablock evict TAG`
    #[arg(long)]
    pub tag: Option<OsString>,
    /// Keep it whatever its exit status [default: only if that is 0]
    #[arg(long)]
    pub keep_failures: bool,
    /// The command to run, with its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

#[derive(Subcommand)]
pub enum AverageVerb {
    /// Add a value
    Add {
        /// Forget everything so many seconds after the last value
        #[arg(long, value_name = "SECONDS", value_parser = seconds_above_zero)]
        expire: Option<Duration>,
        /// Mark the key, for `slablock evict TAG`
        #[arg(long)]
        tag: Option<OsString>,
        /// The average's name
        key: OsString,
        /// A number, for example 12.5, -3 or 1e-6
        #[arg(allow_negative_numbers = true)]
        value: f64,
    },
    /// Print the average; exit status 1 if there is none
    Get {
        /// The average's name
        key: OsString,
    },
    /// Print the average and start anew; exit status 1 if there is none
    Pop {
        /// The average's name
        key: OsString,
    },
}

#[derive(Args)]
pub struct WorkerArgs {
    /// Who started it: when that process ends, so does this one
    pub master: u32,
    pub role: Role,
    /// How long to work, in milliseconds
    pub work_ms: u64,
}

#[derive(Args)]
#[command(after_help = TORTURE_NOTES)]
pub struct TortureArgs {
    /// How many processes work at a time
    #[arg(short, long, value_name = "N", default_value_t = 8, value_parser = count)]
    pub processes: usize,
    /// For how long
    #[arg(short, long, default_value = "10", value_parser = seconds_above_zero)]
    pub seconds: Duration,
    /// Repeat the schedule of an earlier run [default: another one each time]
    #[arg(long)]
    pub seed: Option<u64>,
    /// How many to kill in a second, on average
    #[arg(short, long, value_name = "N", default_value = "200", value_parser = rate)]
    pub kills: f64,
    /// How long anything may take while nobody is stopped
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds_above_zero)]
    pub bound: Duration,
    /// Print nothing but a summary in JSON
    #[arg(long)]
    pub json: bool,
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1_000) => Ok(count),
        _ => Err("expected a number from 1 to 1,000".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=100_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected how many a second, such as 200".to_owned()),
    }
}
