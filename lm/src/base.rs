//! A base model ready for work: decoder, tokenizer, chat template, and the pinned system prompt.

use std::ops::Deref;
use std::path::Path;

use crate::checkpoint::is_folder;
use crate::source::Name;
use crate::{
    Architecture, ChatTemplate, Checkpoint, Decoder, Error, Loaded, Message, Precision, Result, Role, Stop,
    Tokenizer, gguf, hf,
};

/// The system prompt of every conversation, for weight diffs and readers alike. Given, so that no template inserts its
/// own, and empty, so that it costs few tokens.
pub const SYSTEM_PROMPT: &str = "";

/// What is known of a base model without its weights in memory: enough to check and to cost work on it.
#[derive(Debug)]
pub struct Outline {
    /// What the decoder is.
    pub architecture: Architecture,
    /// Text to tokens.
    pub tokenizer: Tokenizer,
    /// Conversations to tokens.
    pub chat: ChatTemplate,
    /// What others find it by: a repository on the Hub, a folder; if nobody said, what its own files call it.
    pub name: String,
    /// Which revision of a repository it is: the commit.
    pub revision: Option<String>,
    /// How products with the weights are computed.
    pub precision: Precision,
    /// What its own files call it.
    pub title: String,
    /// What a configuration of its own says beside the weights.
    pub(crate) stated: String,
    /// blake3 of the weight files' bytes.
    pub(crate) weights: String,
}

impl Outline {
    /// A model as its own files tell of it, under the name that they give it.
    pub(crate) fn of(
        architecture: Architecture,
        (tokenizer, chat, title): (Tokenizer, ChatTemplate, String),
        stated: String,
        weights: String,
        precision: Precision,
    ) -> Self {
        let name = title.clone();
        Self { architecture, tokenizer, chat, name, revision: None, precision, title, stated, weights }
    }

    /// Reads a GGUF file or a Hugging Face folder; of the weights only the digest is taken.
    ///
    /// # Errors
    /// As [`Checkpoint::load`], except for what only the weights' values show.
    pub fn load(path: &Path, precision: Precision) -> Result<Self> {
        Self::load_with(path, precision, None)
    }

    /// The same under a chat template that takes the place of the model's own.
    ///
    /// # Errors
    /// As [`Outline::load`].
    pub fn load_with(path: &Path, precision: Precision, template: Option<&str>) -> Result<Self> {
        if is_folder(path)? {
            hf::outline(path, precision, template)
        } else {
            gguf::outline(path, precision, template)
        }
    }

    /// Reads what [`Outline::load`] reads, and the names and sizes of the weights, for whether they can be read at all.
    ///
    /// # Errors
    /// As [`Outline::load`].
    pub fn probe(path: &Path, template: Option<&str>) -> Result<()> {
        if is_folder(path)? { hf::probe(path, template) } else { gguf::probe(path, template) }
    }

    /// The same under the name that others find it by.
    pub fn named(self, name: Name) -> Self {
        Self { name: name.name, revision: name.revision, ..self }
    }

    /// The name wherever the model lies: a place on this machine is none, there it is what the model's own files call it.
    pub fn placeless_name(&self) -> &str {
        if Path::new(&self.name).is_absolute() { &self.title } else { &self.name }
    }

    /// Whether a name that somebody gave the base of an adapter can be this model's. A repository of the Hub has one name; a model that
    /// lies in a folder may be any of the same last part.
    pub fn is_called(&self, name: &str) -> bool {
        let last = |n: &str| n.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_lowercase();
        let repository = |n: &str| !n.starts_with(['/', '.', '~']) && n.matches('/').count() == 1;
        if self.name == name || self.title == name {
            return true;
        }
        if repository(&self.name) && repository(name) {
            return self.name.eq_ignore_ascii_case(name);
        }
        [&self.name, &self.title].iter().any(|own| last(own) == last(name))
    }

    /// Whether a revision that somebody gave can be this model's: the same commit, or a branch, which says not which.
    pub fn is_at(&self, revision: &str) -> bool {
        revision == "main" || self.revision.as_deref() == Some(revision)
    }

    /// Tokens of a user turn up to the opening of the reply. A text of several turns ([`fence::turns`]) becomes the conversation that it
    /// is: the one place where they go through the chat template.
    ///
    /// # Errors
    /// If the text cannot be tokenised, or its last turn is not the user's.
    pub fn prompt(&self, user: &str) -> Result<Vec<u32>> {
        self.prompt_told(SYSTEM_PROMPT, user)
    }

    /// [`Self::prompt`] under a system prompt.
    ///
    /// # Errors
    /// As there.
    pub fn prompt_told(&self, system: &str, user: &str) -> Result<Vec<u32>> {
        let turns = fence::turns::split(user);
        if turns.len() == 1 {
            return self.chat.encode_prompt(&self.tokenizer, system, user);
        }
        if turns.len().is_multiple_of(2) {
            return Err(Error::Request(format!(
                "a conversation of {} turns does not end with the user's",
                turns.len()
            )));
        }
        let role = |i: usize| if i.is_multiple_of(2) { Role::User } else { Role::Assistant };
        let system = std::iter::once(Message::new(Role::System, system));
        let said = turns.iter().enumerate().map(|(i, text)| Message::new(role(i), *text));
        let messages: Vec<Message> = system.chain(said).collect();
        self.chat.encode(&self.tokenizer, &messages, true)
    }

    /// Tokens of a whole reply with its end of turn.
    ///
    /// # Errors
    /// If the text cannot be tokenised.
    pub fn reply(&self, text: &str) -> Result<Vec<u32>> {
        self.chat.encode_reply(&self.tokenizer, text)
    }

    /// What ends a reply.
    pub fn stop(&self) -> Stop<'_> {
        let mut tokens = self.architecture.ends.clone();
        tokens.push(self.chat.end_of_turn());
        Stop { tokens, line: self.chat.stop_line().map(|line| (&self.tokenizer, line)) }
    }

    /// One digest of everything that decides this model's outputs: weights, tokenizer, template, system prompt,
    /// precision.
    pub fn digest(&self) -> String {
        self.digest_at(self.precision)
    }

    /// [`Outline::digest`] of the same model at another precision.
    pub fn digest_at(&self, precision: Precision) -> String {
        digest(&self.weights, &self.stated, &self.tokenizer, &self.chat, precision)
    }

    /// At which precision this model has that digest; none if it is another model's.
    pub fn precision_of(&self, digest: &str) -> Option<Precision> {
        Precision::ALL.into_iter().find(|p| self.digest_at(*p) == digest)
    }
}

/// Everything needed to talk to a base model.
#[derive(Debug)]
pub struct BaseModel {
    /// The frozen decoder.
    pub decoder: Decoder,
    outline: Outline,
}

impl Deref for BaseModel {
    type Target = Outline;

    fn deref(&self) -> &Outline {
        &self.outline
    }
}

impl BaseModel {
    /// Loads a GGUF file or a Hugging Face folder.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn load(path: &Path, precision: Precision) -> Result<Self> {
        Self::load_with(path, precision, None)
    }

    /// The same under a chat template that takes the place of the model's own.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn load_with(path: &Path, precision: Precision, template: Option<&str>) -> Result<Self> {
        let loaded = Checkpoint::load_with(path, template)?;
        let decoder = Decoder::new(&loaded.checkpoint, precision)?;
        Ok(Self { decoder, outline: loaded.into_outline(precision) })
    }

    /// The same under the name that others find it by.
    pub fn named(self, name: Name) -> Self {
        Self { outline: self.outline.named(name), ..self }
    }
}

/// The tokenizer and the chat template of a GGUF file or a Hugging Face folder, whatever its layers are; a template that is given takes
/// the place of its own.
///
/// # Errors
/// One sentence with the path if they are not there, damaged, or of a kind that is not read.
pub fn language(path: &Path, template: Option<&str>) -> Result<(Tokenizer, ChatTemplate)> {
    if is_folder(path)? {
        hf::language(path, template).map(|(tokenizer, chat, _)| (tokenizer, chat))
    } else {
        gguf::language_of(path, template)
    }
}

/// Refuses a model whose embedding has no row for a token that a text or the template can have.
pub(crate) fn fits(path: &Path, rows: usize, tokenizer: &Tokenizer, chat: &ChatTemplate) -> Result<()> {
    let tokens = tokenizer.size().max(chat.size());
    if tokens <= rows {
        return Ok(());
    }
    let what = format!(
        "its tokenizer makes ids up to {}, and its embedding has {rows} rows: they are of different models",
        tokens - 1
    );
    Err(Error::File { path: path.to_owned(), what })
}

impl Loaded {
    /// [`BaseModel::digest`] of the model that these files make at a precision.
    pub fn base_digest(&self, precision: Precision) -> String {
        digest(&self.checkpoint.digest, &self.stated, &self.tokenizer, &self.chat, precision)
    }

    /// As [`Outline::precision_of`].
    pub fn precision_of(&self, digest: &str) -> Option<Precision> {
        Precision::ALL.into_iter().find(|p| self.base_digest(*p) == digest)
    }
}

fn digest(
    weights: &str,
    stated: &str,
    tokenizer: &Tokenizer,
    chat: &ChatTemplate,
    precision: Precision,
) -> String {
    let mut hasher = blake3::Hasher::new();
    // What digests have always said; names may change.
    let precision = match precision {
        Precision::F32 => "F32",
        Precision::Bf16 => "Bf16",
    };
    // A model in one file has the digest that it always had.
    let stated = Some(stated).filter(|s| !s.is_empty());
    for part in
        [weights, tokenizer.digest(), chat.digest(), SYSTEM_PROMPT, precision].into_iter().chain(stated)
    {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
