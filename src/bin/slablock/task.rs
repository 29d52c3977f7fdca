//! What the arguments mean, and which module carries that out.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use slablock::SetOptions;

use crate::args::{
    AverageVerb, Cli, KeepArgs, MemoArgs, RunArgs, SetArgs, StatusArgs, Verb, WorkerArgs,
};
use crate::average::{self, Addition};
use crate::failure::Failure;
use crate::memo::{self, MemoPlan};
use crate::place::Chosen;
use crate::run::{self, Patience, RunPlan, Talk};
use crate::status::{self, View};
use crate::values::{self, Addend, Listing, New, Upkeep};
use crate::{admin, demo, torture, tree};

/// Something to do.
pub enum Task {
    InStore(Option<PathBuf>, StoreTask),
    KeepTree(KeepArgs),
    Demo,
    DemoWorker(PathBuf, WorkerArgs),
    Torture(torture::Plan),
    TortureWorker(PathBuf, torture::WorkerPlan),
}

/// Something to do in the store of a directory.
pub enum StoreTask {
    Run(RunPlan),
    Status(View),
    AverageAdd(Addition),
    AverageGet(Vec<u8>),
    AveragePop(Vec<u8>),
    Get(Vec<u8>),
    Set(New),
    Add(New),
    Incr(Addend),
    Pop(Vec<u8>),
    Delete(Vec<u8>),
    Touch(Vec<u8>, Option<Duration>),
    Keys(Listing),
    Memo(MemoPlan),
    Stats { json: bool },
    Upkeep(Upkeep),
    Remove(Vec<u8>),
    Evict(Vec<u8>),
    Check,
    Repair,
    Adopt,
}

impl Cli {
    /// Finds out what was meant, and where.
    pub fn into_task(self) -> Result<Task, Failure> {
        let task = match self.verb {
            Verb::KeepTree(args) => return Ok(Task::KeepTree(args)),
            Verb::Demo => return Ok(Task::Demo),
            Verb::DemoWorker(args) => {
                return Ok(Task::DemoWorker(
                    Chosen::new(self.dir)?.dir().to_owned(),
                    args,
                ));
            }
            // Never in the store that is used otherwise, which the environment may name.
            Verb::Torture(args) => {
                return Ok(Task::Torture(torture::Plan::of(self.dir, args)));
            }
            Verb::TortureWorker(plan) => {
                return Ok(Task::TortureWorker(
                    Chosen::new(self.dir)?.dir().to_owned(),
                    plan,
                ));
            }
            Verb::Run(args) => StoreTask::Run(args.into_plan()),
            Verb::Status(args) => StoreTask::Status(args.into_view()),
            Verb::Average(verb) => verb.into_task(),
            Verb::Get { key } => StoreTask::Get(key.into_vec()),
            Verb::Set { keep, args } => {
                let mut new = args.into_new();
                if keep {
                    new.options = new.options.keep_expiry().keep_tag();
                }
                StoreTask::Set(new)
            }
            Verb::Add(args) => StoreTask::Add(args.into_new()),
            Verb::Incr {
                key,
                by,
                default,
                expire,
                tag,
            } => StoreTask::Incr(Addend {
                key: key.into_vec(),
                by,
                default,
                options: set_options(expire, tag),
            }),
            Verb::Pop { key } => StoreTask::Pop(key.into_vec()),
            Verb::Delete { key } => StoreTask::Delete(key.into_vec()),
            Verb::Touch { expire, key } => StoreTask::Touch(key.into_vec(), expire),
            Verb::Keys { null, json } => StoreTask::Keys(match (json, null) {
                (true, _) => Listing::Json,
                (_, true) => Listing::Zeros,
                _ => Listing::Lines,
            }),
            Verb::Memo(args) => StoreTask::Memo(args.into_plan()),
            Verb::Stats { json } => StoreTask::Stats { json },
            Verb::Expire => StoreTask::Upkeep(Upkeep::Expire),
            Verb::Cull => StoreTask::Upkeep(Upkeep::Cull),
            Verb::Volume => StoreTask::Upkeep(Upkeep::Volume),
            Verb::Clear => StoreTask::Upkeep(Upkeep::Clear),
            Verb::Remove { key } => StoreTask::Remove(key.into_vec()),
            Verb::Evict { tag } => StoreTask::Evict(tag.into_vec()),
            Verb::Check => StoreTask::Check,
            Verb::Repair => StoreTask::Repair,
            Verb::Adopt { store } => {
                return Ok(Task::InStore(store.or(self.dir), StoreTask::Adopt));
            }
        };
        Ok(Task::InStore(self.dir, task))
    }
}

impl Task {
    /// Does it and returns the exit status.
    pub fn carry_out(self) -> Result<u8, Failure> {
        match self {
            Task::InStore(dir, task) => task.carry_out_in(dir),
            Task::KeepTree(args) => tree::keep(args),
            Task::Demo => demo::demo(),
            Task::DemoWorker(dir, args) => demo::work(&dir, &args),
            Task::Torture(plan) => torture::torture(&plan),
            Task::TortureWorker(dir, plan) => torture::resume(&dir, plan),
        }
    }
}

impl StoreTask {
    fn carry_out_in(self, named: Option<PathBuf>) -> Result<u8, Failure> {
        let chosen = Chosen::new(named)?;
        chosen.get_ready(self.makes_a_store())?;
        self.carry_out(chosen.dir())
    }

    /// Whether it makes a store if there is none.
    fn makes_a_store(&self) -> bool {
        matches!(
            self,
            StoreTask::Run(_)
                | StoreTask::Memo(_)
                | StoreTask::Set(_)
                | StoreTask::Add(_)
                | StoreTask::Incr(_)
                | StoreTask::AverageAdd(_)
        )
    }

    fn carry_out(self, dir: &Path) -> Result<u8, Failure> {
        match self {
            StoreTask::Run(plan) => run::run(dir, &plan),
            StoreTask::Status(view) => status::show(dir, &view),
            StoreTask::AverageAdd(addition) => average::add(dir, &addition),
            StoreTask::AverageGet(key) => average::get(dir, &key),
            StoreTask::AveragePop(key) => average::pop(dir, &key),
            StoreTask::Get(key) => values::get(dir, &key),
            StoreTask::Set(new) => values::set(dir, &new),
            StoreTask::Add(new) => values::add(dir, &new),
            StoreTask::Incr(addend) => values::incr(dir, &addend),
            StoreTask::Pop(key) => values::pop(dir, &key),
            StoreTask::Delete(key) => values::delete(dir, &key),
            StoreTask::Touch(key, expire) => values::touch(dir, &key, expire),
            StoreTask::Keys(listing) => values::keys(dir, listing),
            StoreTask::Memo(plan) => memo::memo(dir, &plan),
            StoreTask::Stats { json } => values::stats(dir, json),
            StoreTask::Upkeep(upkeep) => values::upkeep(dir, upkeep),
            StoreTask::Remove(key) => admin::remove(dir, &key),
            StoreTask::Evict(tag) => admin::evict(dir, &tag),
            StoreTask::Check => admin::check(dir),
            StoreTask::Repair => admin::repair(dir),
            StoreTask::Adopt => admin::adopt(dir),
        }
    }
}

impl RunArgs {
    fn into_plan(self) -> RunPlan {
        RunPlan {
            patience: match (self.nonblock, self.timeout) {
                (true, _) => Patience::None,
                (false, Some(limit)) if limit.is_zero() => Patience::None,
                (false, Some(limit)) => Patience::Limited(limit),
                (false, None) => Patience::Endless,
            },
            talk: match (self.quiet, self.verbose) {
                (true, _) => Talk::Quiet,
                (_, true) => Talk::Verbose,
                _ => Talk::Normal,
            },
            tree: self.tree,
            key: self.key.into_vec(),
            permits: self.permits,
            conflict_status: self.conflict_exit_code,
            lease: self.expire,
            tag: self.tag.map(OsString::into_vec),
            command: self.command,
        }
    }
}

impl StatusArgs {
    fn into_view(self) -> View {
        View {
            key: self.key.map(OsString::into_vec),
            json: self.json,
            again: self.watch,
        }
    }
}

impl SetArgs {
    fn into_new(self) -> New {
        New {
            key: self.key.into_vec(),
            value: self.value.map(OsString::into_vec),
            options: set_options(self.expire, self.tag),
        }
    }
}

impl MemoArgs {
    fn into_plan(self) -> MemoPlan {
        MemoPlan {
            key: self
                .key
                .map_or_else(|| memo::key_of(&self.command), OsString::into_vec),
            options: set_options(self.expire, self.tag),
            keep_failures: self.keep_failures,
            command: self.command,
        }
    }
}

fn set_options(expire: Option<Duration>, tag: Option<OsString>) -> SetOptions {
    let options = SetOptions::new();
    let options = expire.into_iter().fold(options, SetOptions::expire);
    let tag = tag.map(OsString::into_vec);
    tag.into_iter().fold(options, SetOptions::tag)
}

impl AverageVerb {
    fn into_task(self) -> StoreTask {
        match self {
            AverageVerb::Get { key } => StoreTask::AverageGet(key.into_vec()),
            AverageVerb::Pop { key } => StoreTask::AveragePop(key.into_vec()),
            AverageVerb::Add {
                key,
                value,
                expire,
                tag,
            } => StoreTask::AverageAdd(Addition {
                key: key.into_vec(),
                value,
                expire,
                tag: tag.map(OsString::into_vec),
            }),
        }
    }
}
