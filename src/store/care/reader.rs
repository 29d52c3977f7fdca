//! Reading a store that may not be written to, or should not be.
//!
//! A reader takes part in nothing: it has no number, opens no lock file, and maps the slab so that
//! it cannot be written. Nothing here gets hold of a `Store`, for every way into one joins it, and
//! nothing here writes to a record: with such a map that would be a SIGSEGV.
//!
//! Without a stripe a reader has to look again instead: a key that is found is proved by its own
//! bytes and its life, one that is missed by the count of those that left (I8). Whole lists go by
//! the slots and not by the chains: a key stays in its slots while it exists, so one that exists
//! throughout is listed once. Where a transaction was decided and not carried out, its list is
//! read, and of what it names the prepared cell counts (T1).
//!
//! Here are opening and what concerns the store as a whole. Finding keys, reading values, showing
//! keys and verifying them have files of their own.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result, show_key};
use crate::log::Log;
use crate::os::clock;
use crate::os::dir::Dir;
use crate::os::process::Identity;
use crate::record::{Damaged, NO_VERSION, ParticipantId};
use crate::slab::{Slab, Tenant};
use crate::store::care::reader::finder::ReadFinder;
use crate::store::care::reader::key_infos::KeyLister;
use crate::store::care::reader::values::ValueReader;
use crate::store::care::reader::verifier::Verifier;
use crate::store::holds::standing::Onlooker;
use crate::store::home::open::{prepare_dir, refuse_strangers};
use crate::store::home::{original, slab_file};
use crate::store::in_slab::is_still;
use crate::store::key_entry::KeyEntry;
use crate::store::log::segments::{segments, usage_of};
use crate::store::members::living;
use crate::store::members::participants::is_gone_by_witness;
use crate::store::members::recount::Usage;
use crate::store::names::{SLAB, Shard, Site, not_a_store};
use crate::store::settings::{Config, Settings, config_of};
use crate::store::values::average::Average;
use crate::store::values::get::stats_of;
use crate::sync::crash_point;
use crate::types::{Stats, Summary};

mod decided;
mod finder;
mod key_infos;
#[cfg(all(test, not(loom)))]
mod tests;
mod values;
mod verifier;

pub(crate) use decided::DecidedThere;

/// A store, or one shard of a cache, opened to be read.
pub(crate) struct ReadStore {
    slab: Slab,
    slab_identity: (u64, u64),
    log: Log,
    /// Its lane is the number by which lists of decided changes name it.
    site: Site,
}

impl ReadStore {
    pub(crate) fn open(dir: &Path) -> Result<ReadStore> {
        let settings = Settings {
            create: false,
            ..Settings::default()
        };
        crash_point();
        let dir = std::path::absolute(dir).map_err(|e| Error::io("find", dir, e))?;
        prepare_dir(&dir, &settings)?;
        refuse_strangers(&dir, &settings)?;
        let site = Site::of(&dir)?;
        let slab = slab_file::map_to_read(&dir)?.filter(|slab| original::names_itself(slab));
        let slab = slab.ok_or_else(|| not_a_store(&dir, "its slab was never finished"))?;
        match original::check(&slab) {
            // What a copy says may be read: nobody is granted anything by that.
            Err(Error::Copied { .. }) => {}
            other => other?,
        }
        let home = Dir::open(&dir).map_err(|e| Error::io("open", &dir, e))?;
        let log = Log::new(&dir, Arc::new(home), SLAB, slab.part().id).reading_only();
        let store = ReadStore {
            slab_identity: slab.identity().number(),
            slab: *slab,
            log,
            site,
        };
        store.check_usable()?;
        Ok(store)
    }

    /// The first shard of the cache of which this is another one.
    pub(crate) fn open_home(&self) -> Result<Option<ReadStore>> {
        let shard = Shard::at(&self.site.dir)?.filter(|shard| shard.number != 0);
        shard
            .map(|shard| ReadStore::open(&shard.sibling(0)))
            .transpose()
    }

    /// What `look` finds, unless the store is being repaired, was removed or was replaced.
    pub(crate) fn looking<T>(&self, look: impl FnOnce() -> Result<T>) -> Result<T> {
        self.check_usable()?;
        self.slab.reach()?;
        let seen = look();
        // Nor what could not be mapped.
        self.slab.reach()?;
        // What was seen in the midst of a repair is nothing to tell, nor that it made no sense.
        self.check_ready()?;
        seen
    }

    fn check_usable(&self) -> Result<()> {
        self.check_ready()?;
        let replaced = || {
            let path = self.site.locks.clone();
            Err(Error::Replaced { path })
        };
        crash_point();
        match std::fs::metadata(self.slab.path()) {
            Ok(there) if (there.dev(), there.ino()) != self.slab_identity => replaced(),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                match self.slab.stat()?.st_nlink {
                    0 => replaced(),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn check_ready(&self) -> Result<()> {
        match living::is_ready(&self.slab) {
            true => Ok(()),
            false => Err(self.slab.corrupt("it is being repaired, or is to be")),
        }
    }
}

/// What there is to see, each with what was decided.
impl ReadStore {
    pub(crate) fn values<'r, 'h>(
        &'r self,
        decided: &'r mut DecidedThere<'h>,
    ) -> ValueReader<'r, 'h> {
        let store = self;
        ValueReader { store, decided }
    }

    pub(crate) fn keys<'r, 'h>(&'r self, decided: &'r mut DecidedThere<'h>) -> KeyLister<'r, 'h> {
        KeyLister(self.values(decided))
    }

    pub(crate) fn verifier<'r, 'h>(
        &'r self,
        decided: &'r mut DecidedThere<'h>,
    ) -> Verifier<'r, 'h> {
        Verifier(self.values(decided))
    }

    fn is_still(&self, found: KeyEntry) -> bool {
        is_still(&self.slab, found)
    }

    /// Shows `look` what is seen of holds by this process, as it is now: it may be the child of the
    /// one that opened this.
    fn as_onlooker<T>(&self, look: impl FnOnce(Onlooker<'_>) -> Result<T>) -> Result<T> {
        let me = Identity::of_this_process()
            .map_err(|e| Error::io("read", Path::new("/proc/self/stat"), e))?;
        look(Onlooker {
            slab: &self.slab,
            pid_namespace: me.pid_namespace,
            is_dead: &|id: ParticipantId| is_gone_by_witness(&self.slab, &me, id.get()),
        })
    }
}

/// Averages, and the store as a whole.
impl ReadStore {
    /// The average under a key.
    pub(crate) fn summary(&self, key: &[u8]) -> Result<Option<Summary>> {
        while let Some(found) = ReadFinder(self).find_as(key, Tenant::Averager)? {
            let summary = self.summary_in(found, key);
            if self.is_still(found) {
                return summary;
            }
        }
        Ok(None)
    }

    fn summary_in(&self, found: KeyEntry, key: &[u8]) -> Result<Option<Summary>> {
        match self.slab.slot(found.id).cells().read(NO_VERSION) {
            Ok((words, _)) => Ok(Average::from_words(words).summary(clock::wall_us)),
            Err(Damaged) => {
                let what = format!("the average {} fails its checksum", show_key(key));
                Err(self.slab.corrupt(what))
            }
        }
    }

    fn usage(&self) -> Result<Usage> {
        Ok(usage_of(&segments(&self.slab, &self.log)?))
    }

    pub(crate) fn stats(&self) -> Result<Stats> {
        Ok(stats_of(&self.slab, self.usage()?))
    }

    /// The settings in force.
    pub(crate) fn config(&self) -> Result<Config> {
        config_of(&self.slab)
    }

    /// How many bytes of the device it takes.
    pub(crate) fn volume(&self) -> Result<u64> {
        Ok(self.slab.disk_bytes()? + self.usage()?.bytes)
    }
}
