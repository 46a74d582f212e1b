//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::memory::Size;

/// Make labelled LoRA adapters by the hundred, train readers on them, and see which reader reads what.
#[derive(Debug, Parser)]
#[command(
    name = "lorafab",
    version,
    about,
    after_help = "Exit codes: 0 ok, 1 ran but the outcome is negative, 2 usage or configuration, 3 not found or ambiguous,\n5 file, disk, network or model, 130 interrupted (run the same command again to go on)."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "give a whole number of at least 1".into())
}

fn rows_of_a_step(text: &str) -> Result<usize, String> {
    at_least_one(text)?;
    text.parse().ok().filter(|n| *n <= 4096).ok_or_else(|| "give a whole number of at most 4096".into())
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|x: &f64| x.is_finite() && *x > 0.0)
        .ok_or_else(|| "give a number above 0".into())
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Folder of adapters, jobs and runs
    #[arg(long, global = true, env = "LORAFAB_STORE", value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Base model: a GGUF file, a Hugging Face folder, organisation/name, or a built-in one: "default"
    /// (SmolLM2-135M-Instruct), "gemma-3-270m" (a base model, under Gemma's terms of use)
    #[arg(long, global = true, env = "LORAFAB_MODEL", default_value = lm::source::DEFAULT_MODEL)]
    pub(crate) model: String,
    /// Chat template in place of the model's own, or for a model that has none: a Jinja file
    #[arg(long, global = true, env = "LORAFAB_CHAT_TEMPLATE", value_name = "FILE")]
    pub(crate) chat_template: Option<PathBuf>,
    /// Precision of products with frozen weights: "fastest" (bf16 where this CPU multiplies it faster), "f32" or "bf16"
    #[arg(long, global = true, env = "LORAFAB_PRECISION", default_value = "fastest")]
    pub(crate) precision: String,
    /// Vector instructions: "best", or to compare paths "portable", "avx2", "avx512", "avx512-bf16", "amx"
    #[arg(long, global = true, env = "LORAFAB_SIMD", default_value = "best")]
    pub(crate) simd: String,
    /// Memory that may be taken, e.g. "8GB", instead of what the machine and its control groups leave free
    #[arg(long, global = true, env = "LORAFAB_MEMORY", value_name = "SIZE")]
    pub(crate) memory: Option<Size>,
    /// Print answers as JSON; an error is then one JSON line, the last on stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Never touch the network
    #[arg(long, global = true, env = "HF_HUB_OFFLINE", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) offline: bool,
    /// Say less on stderr
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make adapters, train the readers, compare them: the whole product once
    Quickstart(QuickstartArgs),
    /// Ask all readers about an adapter: each by name, with alternatives and how they compare with nothing
    Ask(crate::commands::ask::AskArgs),
    /// Read an adapter: what it does, by which evidence, and how sure that is
    Read(crate::commands::read::ReadArgs),
    /// Look at recipes: families of behaviours as data
    #[command(subcommand)]
    Recipe(RecipeCommand),
    /// Make adapters through the batch job queue
    #[command(subcommand)]
    Factory(FactoryCommand),
    /// Look at, export and import adapters
    #[command(subcommand)]
    Adapter(AdapterCommand),
    /// Send adapters to the Hugging Face Hub, and fetch them from there
    #[command(subcommand)]
    Hub(HubCommand),
    /// Look after the store
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// Talk to a model with an adapter, to the base model, or to both
    Chat(crate::commands::chat::ChatArgs),
    /// Take in, list, show and export readers: DIT adapters and activation oracles
    #[command(subcommand)]
    Reader(crate::commands::reader::ReaderCommand),
    /// Train and ask DIT adapters
    #[command(subcommand)]
    Dit(DitCommand),
    /// Pretrain, post-train and ask activation oracles
    #[command(subcommand)]
    Oracle(OracleCommand),
    /// Collect, compute and inject activations, as a file says
    #[command(subcommand)]
    Intervention(InterventionCommand),
    /// Score readers against each other, with controls
    #[command(subcommand)]
    Compare(CompareCommand),
    /// Decide a question: a study is planned, registered, run, reported and verified
    #[command(subcommand)]
    Study(crate::commands::StudyCommand),
    /// Show the store in a browser: adapters, queue, comparisons and their answers; for reading alone
    Serve(crate::commands::serve::ServeArgs),
    /// Show what this machine and this store offer, and what the model needs; nothing is fetched or loaded
    Doctor,
    /// Print what completes commands and names in a shell, or write manual pages
    Completions(crate::commands::CompletionsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct QuickstartArgs {
    /// A handful of adapters, to see that everything runs; its numbers mean nothing
    #[arg(long)]
    pub(crate) smoke: bool,
    /// Master seed
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Seeds of every trained reader
    #[arg(long, default_value_t = 1)]
    pub(crate) seeds: usize,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RecipeCommand {
    /// List the built-in recipes
    #[command(visible_alias = "ls")]
    List,
    /// Print a recipe's file
    Show {
        /// Name of a built-in recipe, or a file
        recipe: String,
    },
    /// Write a recipe to start from, with every field explained
    New(crate::commands::NewRecipe),
    /// Print the description of the format
    Format,
    /// Check recipes without running anything
    Check {
        /// Names or files
        #[arg(required = true)]
        recipes: Vec<String>,
    },
    /// Find the training settings of a recipe on a base model, for `factory submit` to use there
    Tune(TuneArgs),
    /// What the adapters of a store's families learned, with floor, ceiling and damage
    Gates(crate::commands::GatesArgs),
    /// List the behaviours that a recipe expands to
    Expand {
        /// Name or file
        recipe: String,
        /// Master seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// First N behaviours only
        #[arg(short = 'n', long)]
        limit: Option<usize>,
    },
    /// Show the rows that an adapter of a recipe is trained on
    Rows(crate::commands::RowsArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Tried are the recipe's own rate by 1/9, 1/3, 1 and 3 at its own steps and at three times as many; then, around the best, the rate, the steps\nand the rows of a step, each moved alone, down and up. Chosen is the setting that most behaviours learn (one fewer counts the same), then of those\nthat leak least (within .15 of the replies) the one that does least damage, trains on fewest tokens. It is written to STORE/settings; no adapter is kept. Run again to go on."
)]
pub(crate) struct TuneArgs {
    /// Name of a built-in recipe, or a file
    pub(crate) recipe: String,
    /// Behaviours of the validation split that every setting is tried on
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    pub(crate) behaviours: usize,
    /// Learning rates of the coarse grid
    #[arg(long, value_delimiter = ',', value_name = "RATE,...", value_parser = positive)]
    pub(crate) learning_rate: Vec<f64>,
    /// Steps of the coarse grid
    #[arg(long, value_delimiter = ',', value_name = "N,...", value_parser = at_least_one)]
    pub(crate) steps: Vec<usize>,
    /// Rows of a step that show the behaviour, of the coarse grid
    #[arg(long, value_delimiter = ',', value_name = "N,...", value_parser = rows_of_a_step)]
    pub(crate) rows: Vec<usize>,
    /// Recipe that gets the same settings: a negative trained as this family is (topic: mixed; gated-topic: dud)
    #[arg(long, value_name = "RECIPE")]
    pub(crate) also: Vec<String>,
    /// Try the coarse grid only, and nothing around its best
    #[arg(long)]
    pub(crate) coarse: bool,
    /// Master seed
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Adapters trained in one batch
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    pub(crate) pack: usize,
    /// Most TFLOPs that one adapter may cost
    #[arg(long, default_value_t = 1000.0, value_parser = positive)]
    pub(crate) max_tflop: f64,
    /// Show the grid and what it costs, and try nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FactoryCommand {
    /// Queue the adapters of recipes; submitting twice is one job
    Submit(SubmitArgs),
    /// Work until the queue is empty; again to go on after an interruption
    Run {
        /// Adapters trained in one batch
        #[arg(long, default_value_t = 8, value_parser = at_least_one)]
        pack: usize,
        /// Worker threads, each with its own pack
        #[arg(long, default_value_t = 1, value_parser = at_least_one)]
        workers: usize,
        /// End when nothing is ready, instead of waiting for other workers
        #[arg(long)]
        drain: bool,
    },
    /// Put an adapter from elsewhere through a recipe's gate, and file what came of it
    Gate(crate::commands::GateArgs),
    /// Count jobs by state, and show who works on them
    Status {
        /// Look again every two seconds until no job is open
        #[arg(long)]
        watch: bool,
    },
    /// Show what happened to a job
    Logs {
        /// Label (e.g. topic/cats), id, or beginning of the specification's hash
        job: String,
    },
    /// Cancel open jobs
    Cancel {
        /// Beginning of the labels, e.g. "topic/" or "topic/cats"
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        prefix: String,
    },
    /// Queue dead and cancelled jobs again
    Retry {
        /// Beginning of the labels
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Begin nothing new; what runs goes on
    Pause,
    /// Begin new jobs again
    Resume,
    /// Show or set how many jobs of a tag may run at once; every job has its family as a tag
    Limit {
        /// Tag
        tag: Option<String>,
        /// Most jobs at once
        #[arg(value_parser = clap::value_parser!(i64).range(0..))]
        most: Option<i64>,
        /// Lift the limit
        #[arg(long, conflicts_with = "most")]
        none: bool,
    },
    /// Work through a Slurm cluster
    #[command(subcommand)]
    Slurm(SlurmCommand),
    /// Say what the open jobs will cost, at the rate of finished ones
    Plan {
        /// Compare the last plan with what its jobs came to cost
        #[arg(long)]
        check: bool,
        /// Adapters trained in one batch, for what it takes in memory
        #[arg(long, default_value_t = 8, value_parser = at_least_one)]
        pack: usize,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SlurmCommand {
    /// Hand the ready jobs to Slurm as an array of tasks
    Submit(SlurmSubmit),
    /// Show how far manifests are
    Status {
        /// Folder that all nodes see
        #[arg(long, value_name = "DIR")]
        shared: PathBuf,
        /// Only this manifest
        #[arg(long)]
        manifest: Option<String>,
    },
    /// Cancel a manifest's tasks; what is finished is taken in, the rest goes back to the queue
    Cancel {
        /// Folder that all nodes see
        #[arg(long, value_name = "DIR")]
        shared: PathBuf,
        /// The manifest
        manifest: String,
    },
    /// Take finished adapters into the catalogue; run it where the store's disk is
    Ingest {
        /// Folder that all nodes see
        #[arg(long, value_name = "DIR")]
        shared: PathBuf,
        /// Only this manifest
        #[arg(long)]
        manifest: Option<String>,
        /// The array still runs: jobs without a result stay with it
        #[arg(long)]
        running: bool,
    },
    /// Work on one shard (what a task of the array runs)
    Work {
        /// Folder that all nodes see
        #[arg(long, value_name = "DIR")]
        shared: PathBuf,
        /// The manifest
        #[arg(long)]
        manifest: String,
        /// Number of the shard
        #[arg(long)]
        shard: usize,
        /// Adapters trained in one batch
        #[arg(long, default_value_t = 8, value_parser = at_least_one)]
        pack: usize,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SlurmSubmit {
    /// Folder that all nodes see
    #[arg(long, value_name = "DIR")]
    pub(crate) shared: PathBuf,
    /// Jobs of one task; a task should take 10 to 30 minutes
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    pub(crate) per_task: usize,
    /// At most so many jobs in all
    #[arg(long, default_value_t = 100_000, value_parser = at_least_one)]
    pub(crate) most: usize,
    /// Tasks that run at once
    #[arg(long, default_value_t = 50, value_parser = at_least_one)]
    pub(crate) at_once: usize,
    /// Adapters trained in one batch
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    pub(crate) pack: usize,
    /// Partition
    #[arg(long)]
    pub(crate) partition: Option<String>,
    /// Account
    #[arg(long)]
    pub(crate) account: Option<String>,
    /// Time limit of a task, as Slurm writes it
    #[arg(long)]
    pub(crate) time: Option<String>,
    /// Cores of a task
    #[arg(long, default_value_t = 2, value_parser = at_least_one)]
    pub(crate) cpus: usize,
    /// GPUs of a task
    #[arg(long)]
    pub(crate) gpus: Option<usize>,
    /// Seconds before the time limit at which a task is told to write its checkpoint
    #[arg(long, default_value_t = 120)]
    pub(crate) grace: u32,
    /// Hours for which the jobs are the cluster's
    #[arg(long, default_value_t = 72)]
    pub(crate) lease_hours: u32,
    /// Node whose disk holds the store: a job there takes the adapters in when the array has ended
    #[arg(long)]
    pub(crate) ingest_node: Option<String>,
    /// Further line for sbatch, e.g. --sbatch=--constraint=genoa
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) sbatch: Vec<String>,
    /// Print the script, and submit nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "A file of jobs:\n\n  schema = \"jobs/1\"\n  [[job]]\n  name = \"bees\"\n  kind = \"adapters\"        # recipes, limit, seed, max_tflop\n  recipes = [\"topic\"]\n  [[job]]\n  name = \"look\"\n  kind = \"intervention\"    # spec (a file beside this one), max_tflop, max_mb\n  spec = \"look.json\"\n  [[job]]\n  name = \"mine\"\n  kind = \"comparison\"      # of (jobs that make adapters), seed, smoke\n  of = [\"bees\"]\n\nEvery job takes after, after_any (names of earlier jobs), priority, tags, attempts."
)]
pub(crate) struct SubmitArgs {
    /// Names or files of recipes, files of interventions (.json, or .toml with `steps`), files of jobs (.toml with schema = "jobs/1")
    #[arg(required = true, value_name = "WORK")]
    pub(crate) work: Vec<String>,
    /// At most N behaviours of each recipe, spread over its splits and categories
    #[arg(long)]
    pub(crate) limit: Option<usize>,
    /// So many behaviours of each split instead: to train readers on, to choose by, held-out values, held-out categories
    #[arg(long, value_delimiter = ',', num_args = 1, value_name = "N,N,N,N", conflicts_with = "limit")]
    pub(crate) splits: Vec<usize>,
    /// Master seed
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Make the recipes in each of these settings, e.g. --set training.rank=1,2,4 --set seed=1,2; names then end in "@rank=2,seed=1".
    /// A list is one value in brackets: --set 'training.target_modules=[q_proj,v_proj]'
    #[arg(long, value_name = "FIELD=V,...")]
    pub(crate) set: Vec<String>,
    /// Higher runs first; then first come, first served
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) priority: i64,
    /// Tag of these jobs, for limits
    #[arg(long)]
    pub(crate) tag: Vec<String>,
    /// Attempts before a job is dead
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(i64).range(1..=1_000_000))]
    pub(crate) attempts: i64,
    /// Settings file for the recipes that it names, or "none" for the recipes' own settings; without it those in STORE/settings
    /// and the built-in ones are used where they are for this model
    #[arg(long, value_name = "FILE|none")]
    pub(crate) settings: Option<String>,
    #[command(flatten)]
    pub(crate) cap: CapArgs,
    /// Say what would be queued, and queue nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdapterCommand {
    /// List adapters
    #[command(visible_alias = "ls")]
    List(crate::commands::ListArgs),
    /// Show one adapter
    Show {
        /// Behaviour (topic/cats), a value that one adapter alone has (cats), alias, or id (or its beginning)
        adapter: String,
    },
    /// Compare two adapters: norms, spectra, principal angles, specifications
    Diff {
        /// Id, alias or behaviour
        a: String,
        /// Id, alias or behaviour
        b: String,
    },
    /// Find the adapters whose weight differences point the same way
    Similar {
        /// Id, alias or behaviour
        adapter: String,
        /// Only among adapters for which this holds, as in `adapter list`
        #[arg(short = 'w', long = "where", visible_alias = "filter", value_name = "EXPR")]
        conditions: Vec<String>,
        /// So many
        #[arg(short = 'n', long, visible_alias = "top", default_value_t = 10, value_parser = at_least_one)]
        limit: usize,
    },
    /// Show what an adapter was made from, and what was made from it
    Lineage {
        /// Id, alias or behaviour; or the digest of a base model or recipe
        adapter: String,
    },
    /// Show tags, set them (key=value) or remove them (key=)
    Tag {
        /// Id, alias or behaviour
        adapter: String,
        /// Tags (those that it has are shown if none is given)
        tags: Vec<String>,
    },
    /// List aliases, or make, move or remove one: a name that stands for an adapter
    Alias {
        /// Name
        name: Option<String>,
        /// Id, alias or behaviour that it is to stand for
        adapter: Option<String>,
        /// Remove the alias; the adapter stays
        #[arg(long, requires = "name", conflicts_with = "adapter")]
        remove: bool,
    },
    /// Take adapters out of the catalogue, into the trash
    Rm {
        /// Ids, or behaviours
        #[arg(required = true)]
        adapters: Vec<String>,
        /// Say what would go, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Bring an adapter back from the trash
    Restore {
        /// Id (or its beginning), or behaviour
        adapter: String,
    },
    /// Write an adapter for other programs: as a PEFT folder, or merged into the base model
    Export {
        /// Id or behaviour
        adapter: String,
        /// Folder to write
        dir: PathBuf,
        /// Write the whole model with the adapter merged in, as a Hugging Face folder
        #[arg(long)]
        merged: bool,
        /// How the merged weights are written: "bf16" (half the size) or "f32"
        #[arg(long, requires = "merged", value_parser = ["bf16", "f32"], default_value = "bf16")]
        dtype: String,
        /// Replace the folder if it exists and holds an adapter
        #[arg(long, conflicts_with = "merged")]
        force: bool,
    },
    /// Write adapters with all that belongs to them into one tar file
    Bundle {
        /// File to write
        file: PathBuf,
        /// Condition, as in `adapter list`; all adapters without one
        #[arg(long = "where", value_name = "EXPR")]
        conditions: Vec<String>,
        /// Replace the file if it exists
        #[arg(long)]
        force: bool,
    },
    /// Write adapters as a data set: an index (Parquet and JSON lines), a card and two-level PEFT folders, as the Hub likes them
    Dataset {
        /// Folder to make
        dir: PathBuf,
        /// Condition, as in `adapter list`; all adapters without one
        #[arg(long = "where", value_name = "EXPR")]
        conditions: Vec<String>,
    },
    /// Add two adapters to one that changes the model by exactly what both change it by (factors stacked, scales taken in)
    Compose {
        /// Id, alias or behaviour: the sum is filed under its family, value and split
        first: String,
        /// Id, alias or behaviour
        second: String,
        /// What follows the first's name after "@" ("+FAMILY-VALUE" of the second if not given)
        #[arg(long)]
        name: Option<String>,
    },
    /// Take in a PEFT folder, a whole fine-tuned model, a bundle, or a .pt file of Diff Interpretation Tuning
    Import(crate::commands::ImportArgs),
    /// Re-hash adapters' files
    Verify {
        /// Id or behaviour; all if none is given
        adapter: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum HubCommand {
    /// Send adapters that a repository lacks, and name them in its index; again to go on after an interruption
    Push {
        #[command(flatten)]
        place: HubPlace,
        /// Condition, as in `adapter list`; all adapters without one
        #[arg(long = "where", value_name = "EXPR")]
        conditions: Vec<String>,
        /// Make the repository for everyone to see, if it has to be made; without this it is private
        #[arg(long)]
        public: bool,
        /// Say what would be sent, and send nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Take in the adapters of a repository's index that the store lacks, each one checked
    Pull {
        #[command(flatten)]
        place: HubPlace,
        /// Say what would be fetched, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct HubPlace {
    /// Repository
    #[arg(value_name = "ORGANISATION/NAME")]
    pub(crate) repository: String,
    /// Kind of the repository
    #[arg(long, default_value = "dataset", value_parser = ["dataset", "model"])]
    pub(crate) repo_type: String,
    /// Branch
    #[arg(long, default_value = "main")]
    pub(crate) revision: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RegistryCommand {
    /// Count adapters and bytes
    Stats,
    /// Re-hash every file and compare rows, receipts and the queue's log with each other
    Check {
        /// Mend what can be mended without guessing; catalogue rows come back from receipts
        #[arg(long)]
        repair: bool,
    },
    /// Remove what nothing names, and trash that is old enough; without --apply, say what would go
    Gc {
        /// Carry the plan out
        #[arg(long)]
        apply: bool,
        /// Keep trash younger than this many days
        #[arg(long, default_value_t = 30)]
        keep_days: u64,
    },
    /// Add what receipts know and the catalogue lacks
    Rebuild,
}

#[derive(Debug, Args)]
pub(crate) struct ReaderArgs {
    /// Families to train on (all in the store if none is given)
    #[arg(long)]
    pub(crate) family: Vec<String>,
    /// Most optimiser steps
    #[arg(long)]
    pub(crate) steps: Option<usize>,
    /// Master seed
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// Id or behaviour
    pub(crate) adapter: String,
    /// The question
    pub(crate) question: String,
    /// Reader to use (the newest supervised one if none is given)
    #[arg(long)]
    pub(crate) reader: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DitCommand {
    /// Train a DIT adapter on the store's training adapters
    Train(ReaderArgs),
    /// Ask an adapter about itself
    Ask(AskArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum OracleCommand {
    /// Train an oracle on text and system prompts; no LoRA is involved
    Pretrain {
        /// Text file to predict from; without one, text is sampled from the base model
        #[arg(long)]
        corpus: Option<PathBuf>,
        /// Optimiser steps
        #[arg(long)]
        steps: Option<usize>,
        /// Master seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Train an oracle on the same episodes as DIT
    Posttrain {
        #[command(flatten)]
        reader: ReaderArgs,
        /// Pretrained oracle to start from (the newest if none is given)
        #[arg(long)]
        from: Option<String>,
        /// Start from a fresh adapter instead
        #[arg(long, conflicts_with = "from")]
        scratch: bool,
    },
    /// Ask an oracle about an adapter's activations
    Ask {
        #[command(flatten)]
        ask: AskArgs,
        #[command(flatten)]
        cap: CapArgs,
    },
}

/// What one job may cost, by its form alone; checked before any weight is loaded.
#[derive(Debug, Args)]
pub(crate) struct CapArgs {
    /// Most TFLOPs that one job may cost
    #[arg(long, default_value_t = 1000.0, value_parser = positive)]
    pub(crate) max_tflop: f64,
    /// Most megabytes that an intervention may hold
    #[arg(long, default_value_t = 1000.0, value_parser = positive)]
    pub(crate) max_mb: f64,
}

#[derive(Debug, Subcommand)]
#[command(
    after_help = "A file (JSON or TOML, version 1) lists steps: forward (with collect, inject), sub, mean, scale, unembed_topk, generate.\nA step may name earlier ids only. `intervention show` prints one."
)]
pub(crate) enum InterventionCommand {
    /// Check a file and say what it costs; no weight is loaded
    Check {
        /// The file
        spec: PathBuf,
        #[command(flatten)]
        cap: CapArgs,
    },
    /// Run a file
    Run {
        /// The file
        spec: PathBuf,
        #[command(flatten)]
        cap: CapArgs,
        /// Write the vectors that its `out` names to this safetensors file
        #[arg(long, value_name = "FILE")]
        vectors: Option<PathBuf>,
    },
    /// Print what `oracle ask` does, as such a file
    Show {
        /// Id, alias or behaviour
        adapter: String,
        /// The question
        question: String,
        /// Oracle (the newest if none is given)
        #[arg(long)]
        reader: Option<String>,
        #[command(flatten)]
        cap: CapArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CompareCommand {
    /// Compare arms on the store's adapters: train what is new, score, report
    Run {
        /// Name of the run; "compare", or "tune" with --tune, if none is given
        #[arg(long)]
        run: Option<String>,
        /// File of arms (the default comparison if none is given)
        #[arg(long, value_name = "FILE")]
        arms: Option<PathBuf>,
        /// Seeds of every trained reader that names none of its own
        #[arg(long, default_value_t = 3)]
        seeds: usize,
        /// Only adapters that pass this filter, as in `adapter list --where`
        #[arg(long = "where", value_name = "FILTER")]
        filter: Option<String>,
        /// Master seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Judge arms on validation adapters and leave test adapters out: for choosing settings
        #[arg(long)]
        tune: bool,
        /// A few steps for every reader; its numbers mean nothing
        #[arg(long)]
        smoke: bool,
    },
    /// List the methods that an arm can name, or show arms with all their fields
    Arms {
        /// Print the arms as a file of arms, with all defaults filled in
        #[arg(long)]
        show: bool,
        /// File of arms (the default comparison if none is given)
        file: Option<PathBuf>,
    },
    /// List runs
    #[command(visible_alias = "ls")]
    List,
    /// List what each arm answered, item by item
    Items(crate::commands::ItemsArgs),
    /// Remove a run: its report and its answers; adapters and readers stay
    Rm {
        #[command(flatten)]
        run: RunName,
        /// Say what would go, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Print a run's report
    #[command(visible_alias = "show")]
    Report {
        #[command(flatten)]
        run: RunName,
        /// Comma-separated values
        #[arg(long, conflicts_with_all = ["html", "json"])]
        csv: bool,
        /// Write the report as a web page to this file
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
}

/// A run by its name: in its place, or as an option.
#[derive(Debug, Args)]
pub(crate) struct RunName {
    /// Name of the run (the newest if none is given)
    #[arg(value_name = "RUN")]
    place: Option<String>,
    /// The same as an option
    #[arg(long, value_name = "RUN", conflicts_with = "place")]
    run: Option<String>,
}

impl RunName {
    pub(crate) fn name(&self) -> Option<&str> {
        self.place.as_deref().or(self.run.as_deref())
    }
}
