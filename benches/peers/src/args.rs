//! What can be asked for.

use std::path::PathBuf;

use clap::Parser;
use clap::builder::PossibleValuesParser;

use crate::groups;

/// Measures slablock side by side with what people use today, and writes tables and charts of it.
///
/// Takes about eight minutes. Peers that are not installed are left out, and the tables say so.
#[derive(Parser)]
#[command(name = "peers")]
pub struct Args {
    /// Under a minute: shows that everything works, and its figures mean little
    #[arg(long)]
    pub quick: bool,
    /// One group only; may be given several times
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(groups::names()))]
    pub only: Vec<String>,
    /// Where JSON, Markdown and charts go [default: docs/benchmarks of the repository, and some to
    /// docs/performance.md; those of a quick run, or of some groups only, target/figures of this package]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Measures nothing: writes all anew from the JSON that is there
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    pub again: bool,
    /// Where stores and locks are made [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// On a disk, for the tail latencies [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub disk: Option<PathBuf>,
    /// The Python that has the modules of requirements.txt [default: .venv beside this package, else python3]
    #[arg(long, value_name = "PROGRAM")]
    pub python: Option<PathBuf>,
}
