//! What is on the disk after the power failed.
//!
//! The kernel writes dirty pages when it likes, in any order. So after a loss each page is as it
//! was at some moment between the last sync and the loss, and a page that was being written may be
//! torn between two such moments, sector by sector. How long the file is was written on its own,
//! too.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_int;
use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::kit::Random;
use crate::kit::layout::{BOOT_ID, PAGE};

const PAGE_BYTES: usize = PAGE as usize;
const SECTOR_BYTES: usize = 512;

type Page = [u8; PAGE_BYTES];

/// The bytes of a slab at one moment. Pages that are not there are zeros.
#[derive(Clone, Default)]
pub struct Image {
    pub len: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

impl Image {
    /// The file as it is, sharing with `before` the pages that have not changed.
    pub fn of(file: &File, before: &Image) -> Image {
        let len = file.metadata().unwrap().len();
        let mut bytes = vec![0; len.next_multiple_of(PAGE) as usize];
        file.read_exact_at(&mut bytes[..len as usize], 0).unwrap();
        let mut image = Image {
            len,
            pages: BTreeMap::new(),
        };
        for (number, page) in (0..).zip(bytes.chunks_exact(PAGE_BYTES)) {
            let page: &Page = page.try_into().unwrap();
            match before.pages.get(&number) {
                Some(same) if **same == *page => image.pages.insert(number, Arc::clone(same)),
                _ if *page == ZEROS => None,
                _ => image.pages.insert(number, Arc::new(*page)),
            };
        }
        image
    }

    pub fn write(&self, path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(self.len).unwrap();
        for (number, page) in &self.pages {
            let at = number * PAGE;
            let len = self.len.saturating_sub(at).min(PAGE) as usize;
            file.write_all_at(&page[..len], at).unwrap();
        }
    }

    pub fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let within = (at % PAGE) as usize;
        self.page(at / PAGE)[within..within + N].try_into().unwrap()
    }

    pub fn set(&mut self, at: u64, bytes: &[u8]) {
        let within = (at % PAGE) as usize;
        let page = self
            .pages
            .entry(at / PAGE)
            .or_insert_with(|| Arc::new(ZEROS));
        Arc::make_mut(page)[within..within + bytes.len()].copy_from_slice(bytes);
    }

    fn page(&self, number: u64) -> &Page {
        self.pages.get(&number).map_or(&ZEROS, |page| page)
    }
}

static ZEROS: Page = [0; PAGE_BYTES];

/// What is in the file at some moment, and what is certain to be on the disk.
pub struct Moment<F> {
    pub image: Image,
    /// All of the image is on the disk.
    pub synced: bool,
    /// What the test knows of this moment.
    pub facts: F,
}

/// One boot of the machine, moment by moment.
pub struct Timeline<F> {
    pub moments: Vec<Moment<F>>,
    /// From which moment on the directory entry of the slab is on the disk.
    pub linked: Option<usize>,
}

/// One way in which it can end.
pub struct Loss<F> {
    /// `None`: there is no such file.
    pub image: Option<Image>,
    /// The moments between which everything on the disk is.
    pub since: usize,
    pub until: usize,
    /// Those of the moment of the loss.
    pub facts: F,
    /// For the message of a failure.
    pub how: String,
}

impl<F: Clone> Timeline<F> {
    pub fn begin(image: Image, linked: bool, facts: F) -> Timeline<F> {
        let first = Moment {
            image,
            synced: true,
            facts,
        };
        Timeline {
            moments: vec![first],
            linked: linked.then_some(0),
        }
    }

    pub fn last(&self) -> &Moment<F> {
        self.moments.last().unwrap()
    }

    pub fn push(&mut self, image: Image, synced: bool, facts: F) {
        self.moments.push(Moment {
            image,
            synced,
            facts,
        });
    }

    /// Takes over what was synced meanwhile. The moment before each sync is one, too.
    pub fn take_syncs(&mut self, syncs: Vec<Sync>) {
        for sync in syncs {
            let facts = self.last().facts.clone();
            match sync {
                Sync::File(image) => {
                    self.push(image.clone(), false, facts.clone());
                    self.push(image, true, facts);
                }
                Sync::Directory(_) => self.linked = self.linked.or(Some(self.moments.len() - 1)),
            }
        }
    }

    /// The power fails at a random moment.
    pub fn lose(&self, random: &mut Random) -> Loss<F> {
        let until = match random.below(3) {
            0 => self.moments.len() - 1,
            _ => random.below(self.moments.len() as u64) as usize,
        };
        let synced = self.moments[..=until].iter().rposition(|m| m.synced);
        let since = synced.unwrap();
        let linked = self.linked.is_some_and(|at| at <= until);
        let style = random.below(4);
        let torn = random.below(2) == 0;
        let how = format!("moments {since} to {until}, style {style}, torn {torn}");
        let unlinked = !linked && random.below(3) == 0;
        let image = (!unlinked).then(|| self.compose(random, since, until, style, torn));
        Loss {
            image,
            since,
            until,
            facts: self.moments[until].facts.clone(),
            how,
        }
    }

    fn compose(
        &self,
        random: &mut Random,
        since: usize,
        until: usize,
        style: u64,
        torn: bool,
    ) -> Image {
        let among = &self.moments[since..=until];
        let (first, last) = (&among[0].image, &among[among.len() - 1].image);
        let pick = |random: &mut Random| match style {
            // Nearly everything old; nearly everything new; either; anything in between.
            0 if random.below(8) > 0 => first,
            1 if random.below(8) > 0 => last,
            3 => &among[random.below(among.len() as u64) as usize].image,
            _ => [first, last][random.below(2) as usize],
        };
        let len = pick(random).len;
        let mut numbers: Vec<u64> = among
            .iter()
            .flat_map(|m| m.image.pages.keys().copied())
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut image = Image {
            len,
            pages: BTreeMap::new(),
        };
        for number in numbers.into_iter().filter(|n| n * PAGE < len) {
            let mut page = *pick(random).page(number);
            if torn && random.below(3) == 0 {
                let other = pick(random).page(number);
                for sector in 0..PAGE_BYTES / SECTOR_BYTES {
                    if random.below(2) == 0 {
                        let bytes = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                        page[bytes.clone()].copy_from_slice(&other[bytes]);
                    }
                }
            }
            if page != ZEROS {
                image.pages.insert(number, Arc::new(page));
            }
        }
        // What was of this boot is of another one by now.
        if image.get::<16>(BOOT_ID) != [0; 16] {
            image.set(BOOT_ID, &random.next().to_le_bytes());
        }
        image
    }
}

/// A sync of the library's.
pub enum Sync {
    /// The slab, as it was then.
    File(Image),
    Directory(PathBuf),
}

thread_local! {
    static SYNCS: RefCell<Option<Vec<Sync>>> = const { RefCell::new(None) };
}

/// Runs `body`, and says what this thread synced in it.
pub fn noting_syncs<T>(body: impl FnOnce() -> T) -> (T, Vec<Sync>) {
    SYNCS.with(|syncs| *syncs.borrow_mut() = Some(Vec::new()));
    let result = body();
    let noted = SYNCS.with(|syncs| syncs.borrow_mut().take());
    (result, noted.unwrap_or_default())
}

/// In the place of the C library's: what is synced is what the test says is on the disk.
#[unsafe(no_mangle)]
pub extern "C" fn fsync(descriptor: c_int) -> c_int {
    // SAFETY: whoever calls this has the descriptor open; it is not closed here.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) });
    let link = format!("/proc/self/fd/{descriptor}");
    crate::device::note_sync(&file, &std::fs::read_link(&link).unwrap());
    SYNCS.with(|syncs| {
        if let Some(syncs) = &mut *syncs.borrow_mut() {
            match file.metadata().unwrap().is_dir() {
                true => {
                    syncs.push(Sync::Directory(std::fs::read_link(&link).unwrap()));
                }
                false => syncs.push(Sync::File(Image::of(&file, &Image::default()))),
            }
        }
    });
    0
}

/// Like [`fsync`], for a file's contents.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(descriptor: c_int) -> c_int {
    // SAFETY: as above.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) });
    let link = format!("/proc/self/fd/{descriptor}");
    crate::device::note_sync(&file, &std::fs::read_link(link).unwrap());
    0
}
