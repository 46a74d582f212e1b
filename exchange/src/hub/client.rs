//! Requests to the Hub: who is told the token, what is tried again, what an answer means.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lm::web::{ANSWER, Broken, agent, copy, next_stop, origin};
use serde_json::{Value, json};
use ureq::http::{Request, Uri};

use super::{Options, Place, Trouble};
use crate::{Error, Result};

/// Largest answer that is read: a page of a listing has a thousand entries.
pub(super) const MAX_ANSWER: u64 = 16 << 20;
/// Largest answer to a request for a file that is no file.
const MAX_REFUSAL: u64 = 64 << 10;
/// How often a file's address may be changed by answers.
const MAX_STOPS: usize = 10;
/// Files of a listing, and bytes of their names: ten times what a repository should have.
const MAX_LISTED: usize = 1_000_000;
const MAX_NAMES: usize = 200 << 20;
/// Pages of a listing; the Hub's have a thousand entries.
const MAX_PAGES: usize = 10_000;
/// How long the Hub may work on a change.
const CHANGE: Duration = Duration::from_mins(5);
/// Waits are cut into pieces of this length, so that being told to stop is noticed.
const PIECE: Duration = Duration::from_millis(200);

/// A connection to one repository.
#[derive(Debug)]
pub struct Client {
    agent: ureq::Agent,
    pub(super) options: Options,
    pub(super) place: Place,
    /// Scheme and host of the Hub: only there the token goes.
    origin: String,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) size: u64,
    /// Digest of a git blob; of a large file's pointer, where there is one.
    oid: String,
    /// SHA-256 of a large file.
    sha256: Option<String>,
}

impl Entry {
    /// Whether these are its bytes.
    pub(super) fn holds(&self, bytes: &[u8]) -> bool {
        self.size == bytes.len() as u64
            && match &self.sha256 {
                Some(digest) => *digest == sha256(bytes),
                None => self.oid == git_oid(bytes),
            }
    }
}

/// A repository as it was at one commit.
#[derive(Debug, Default)]
pub struct Remote {
    /// That commit; without one there is no such repository or branch yet.
    pub(super) commit: Option<String>,
    /// Whether the repository exists.
    pub(super) exists: bool,
    /// Its files.
    pub(super) files: BTreeMap<String, Entry>,
}

impl Remote {
    /// How many files it has.
    pub fn files(&self) -> usize {
        self.files.len()
    }
}

/// How a file is sent: in the commit itself, or beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Regular,
    Large,
}

/// A request.
pub(super) struct Call<'a> {
    pub(super) method: &'static str,
    pub(super) url: &'a str,
    /// What it is for, in the words of an error: `listing the files`.
    pub(super) what: &'a str,
    /// Whether it writes, for the right that may be missing.
    pub(super) writes: bool,
    /// Whoever asks has a better way to try again.
    pub(super) once: bool,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Option<&'a [u8]>,
    /// Largest answer that is read, in bytes.
    pub(super) limit: u64,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    headers: ureq::http::HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    fn retry_after(&self) -> Option<Duration> {
        self.header("retry-after")?.trim().parse().ok().map(Duration::from_secs)
    }
}

/// A request that brought no answer.
struct Failed {
    why: String,
    again: bool,
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |s, b| s + &format!("{b:02x}"))
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex(&sha2::Sha256::digest(bytes))
}

/// The digest that git gives a file.
fn git_oid(bytes: &[u8]) -> String {
    use sha1::Digest;
    let head = format!("blob {}\0", bytes.len());
    hex(&sha1::Sha1::new().chain_update(head.as_bytes()).chain_update(bytes).finalize())
}

impl Client {
    /// Gets ready to speak with a Hub about one repository; nothing is sent.
    ///
    /// # Errors
    /// If the endpoint is no address.
    pub fn new(options: Options, place: Place) -> Result<Self> {
        let Some(origin) = origin(&options.endpoint) else {
            return Err(Error::Hub {
                trouble: Trouble::Name,
                what: format!("the Hub's address {:?} is not http(s)://HOST", options.endpoint),
            });
        };
        let agent = agent(&options.certificates)
            .map_err(|e| Error::Hub { trouble: Trouble::Network, what: e.to_string() })?;
        Ok(Self { agent, options, place, origin })
    }

    /// An address below this repository's part of the API.
    fn api(&self, rest: &str) -> String {
        format!(
            "{}/api/{}s/{}/{rest}",
            self.options.endpoint,
            self.place.kind.name(),
            self.place.repository()
        )
    }

    /// Where people see it.
    pub fn page(&self) -> String {
        format!("{}/{}{}", self.options.endpoint, self.place.kind.prefix(), self.place.repository())
    }

    /// Text from elsewhere, fit for an error: no token, no control characters, not long.
    pub(super) fn fit(&self, text: &str) -> String {
        let text = match &self.options.token {
            Some(token) => {
                // As it is, and as the storage's own headers carry it.
                let basic = STANDARD.encode(format!("access_token:{}", token.0));
                text.replace(&token.0, "...").replace(&basic, "...")
            }
            None => text.to_owned(),
        };
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
    }

    pub(super) fn error(&self, trouble: Trouble, what: &str) -> Error {
        let (mut what, place) = (self.fit(what), self.place.to_string());
        if trouble != Trouble::Stopped && !what.contains(&self.place.repository()) {
            what = format!("{place}: {what}");
        }
        Error::Hub { trouble, what }
    }

    pub(super) fn stopped(&self) -> Result<()> {
        if (self.options.stop)() { Err(self.error(Trouble::Stopped, "stopped")) } else { Ok(()) }
    }

    /// The token, for requests that go to the Hub itself.
    fn authorization(&self, url: &str) -> Option<String> {
        let token = self.options.token.as_ref()?;
        (origin(url)? == self.origin).then(|| format!("Bearer {}", token.0))
    }

    fn once(&self, call: &Call<'_>) -> Result<Answer, Failed> {
        let refuse = |why: String| Failed { why, again: false };
        let mut request = Request::builder().method(call.method).uri(call.url);
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        let given = call.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("authorization"));
        if let Some(value) = self.authorization(call.url).filter(|_| !given) {
            request = request.header("authorization", value);
        }
        // The library's message would hold the address, and with it a signature.
        let bad = |_| refuse("its address or a header is malformed".into());
        let wait = if call.writes { CHANGE } else { ANSWER };
        let sent = match call.body {
            Some(bytes) => {
                let request = self.agent.configure_request(request.body(bytes).map_err(bad)?);
                self.agent.run(request.timeout_recv_response(Some(wait)).build())
            }
            None => self.agent.run(request.body(()).map_err(bad)?),
        };
        let lost = |e: ureq::Error| match e {
            ureq::Error::BadUri(_) | ureq::Error::RequireHttpsOnly(_) => {
                refuse("its address is malformed".into())
            }
            e => Failed { why: e.to_string(), again: true },
        };
        let (head, body) = sent.map_err(lost)?.into_parts();
        let limit = if head.status.is_success() { call.limit } else { MAX_REFUSAL };
        let mut bytes = Vec::new();
        let mut reader = body.into_with_config().limit(u64::MAX).reader();
        copy(&mut reader, &mut bytes, limit)
            .map_err(|e| Failed { again: matches!(e, Broken::Io(_)), why: e.to_string() })?;
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: bytes })
    }

    /// Waits, unless told to stop.
    pub(super) fn wait(&self, time: Duration) -> Result<()> {
        let mut left = time;
        while !left.is_zero() {
            self.stopped()?;
            let piece = left.min(PIECE);
            std::thread::sleep(piece);
            left -= piece;
        }
        Ok(())
    }

    /// How long to wait before try `n + 1`.
    pub(super) fn backoff(&self, n: u32) -> Duration {
        let patience = self.options.patience;
        patience.first.saturating_mul(1 << (n - 1).min(16)).min(patience.longest)
    }

    /// Sends a request until it is answered with something that waiting would not change.
    pub(super) fn send(&self, call: &Call<'_>) -> Result<Answer> {
        let patience = self.options.patience;
        let tries = if call.once { 1 } else { patience.tries };
        let mut n = 0;
        loop {
            n += 1;
            self.stopped()?;
            let outcome = self.once(call);
            let asked = match &outcome {
                Ok(a) if a.status == 429 || a.status == 408 || a.status >= 500 => a.retry_after(),
                Ok(_) => None,
                Err(f) if f.again => None,
                Err(f) => return Err(self.error(Trouble::Network, &format!("{}: {}", call.what, f.why))),
            };
            match outcome {
                Ok(a) if a.status != 429 && a.status != 408 && a.status < 500 => return Ok(a),
                Ok(a) if n >= tries => return Err(self.refusal(call, &a)),
                Err(f) if n >= tries => {
                    let what = format!("{}: the Hub cannot be reached: {}", call.what, f.why);
                    return Err(self.error(Trouble::Network, &what));
                }
                _ => {}
            }
            if let Some(time) = asked.filter(|t| *t > patience.longest) {
                let what = format!("{}: the Hub asks for a pause of {} seconds", call.what, time.as_secs());
                return Err(self.error(Trouble::Network, &what));
            }
            self.wait(asked.unwrap_or_else(|| self.backoff(n)))?;
        }
    }

    /// As [`Client::send`]; an answer other than success is an error.
    pub(super) fn succeed(&self, call: &Call<'_>) -> Result<Answer> {
        let answer = self.send(call)?;
        if (200..300).contains(&answer.status) { Ok(answer) } else { Err(self.refusal(call, &answer)) }
    }

    /// One sentence about an answer that is no success.
    pub(super) fn refusal(&self, call: &Call<'_>, answer: &Answer) -> Error {
        let said = answer.header("x-error-message").map(str::to_owned).or_else(|| {
            let value: Value = serde_json::from_slice(&answer.body).ok()?;
            ["error", "message"].iter().find_map(|k| value[k].as_str()).map(str::to_owned)
        });
        let said = said.map(|s| format!(": {s}")).unwrap_or_default();
        let (place, what) = (&self.place, call.what);
        let right = if call.writes { "write to" } else { "read" };
        let ours = origin(call.url).is_some_and(|o| o == self.origin);
        let (trouble, text) = match answer.status {
            401 if self.options.token.is_none() => (
                Trouble::Right,
                format!("{what}: {place} is not there for everyone (401), and there is no token"),
            ),
            401 => (
                Trouble::Right,
                format!(
                    "{what}: the token is wrong or has expired, or it may not {right} {place} (401{said})"
                ),
            ),
            403 if ours => (Trouble::Right, format!("{what}: the token may not {right} {place} (403{said})")),
            404 if ours => (
                Trouble::Absent,
                format!(
                    "{what}: there is no {place} at revision {}, or the token may not see it (404{said})",
                    place.revision
                ),
            ),
            300..=399 if ours => {
                (Trouble::Absent, format!("{what}: {place} has moved; use its new name ({})", answer.status))
            }
            status => (Trouble::Network, format!("{what}: answered with status {status}{said}")),
        };
        self.error(trouble, &text)
    }

    pub(super) fn parse(&self, what: &str, answer: &Answer) -> Result<Value> {
        serde_json::from_slice(&answer.body)
            .map_err(|e| self.error(Trouble::Network, &format!("{what}: the answer is not JSON: {e}")))
    }

    /// A request with a JSON body.
    pub(super) fn post(&self, url: &str, what: &str, body: &Value) -> Result<Answer> {
        let bytes = body.to_string();
        self.send(&Call {
            method: "POST",
            url,
            what,
            writes: true,
            once: false,
            headers: vec![("content-type".into(), "application/json".into())],
            body: Some(bytes.as_bytes()),
            limit: MAX_ANSWER,
        })
    }

    fn get<'a>(url: &'a str, what: &'a str) -> Call<'a> {
        Call {
            method: "GET",
            url,
            what,
            writes: false,
            once: false,
            headers: vec![],
            body: None,
            limit: MAX_ANSWER,
        }
    }

    /// Looks at the repository: its commit and all its files.
    ///
    /// # Errors
    /// If it cannot be reached or read. That there is none is no error.
    pub fn look(&self) -> Result<Remote> {
        let what = "looking for the repository";
        let revision = self.place.revision.replace('/', "%2F");
        let url = self.api(&format!("revision/{revision}?expand=sha"));
        let answer = self.send(&Self::get(&url, what))?;
        if answer.status == 404 {
            let exists = answer.header("x-error-code") == Some("RevisionNotFound");
            return Ok(Remote { exists, ..Remote::default() });
        }
        if answer.status != 200 {
            return Err(self.refusal(&Self::get(&url, what), &answer));
        }
        let commit = self.parse(what, &answer)?["sha"].as_str().map(str::to_owned);
        let commit =
            commit.filter(|c| (40..=64).contains(&c.len()) && c.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(commit) = commit else {
            return Err(self.error(Trouble::Network, &format!("{what}: the answer names no commit")));
        };
        let files = self.tree(&commit)?;
        Ok(Remote { commit: Some(commit), exists: true, files })
    }

    fn tree(&self, commit: &str) -> Result<BTreeMap<String, Entry>> {
        let what = "listing the files";
        let mut url = self.api(&format!("tree/{commit}?recursive=true&expand=false"));
        let mut files = BTreeMap::new();
        let (mut names, mut entries) = (0, 0);
        let mut asked = std::collections::BTreeSet::new();
        loop {
            self.stopped()?;
            asked.insert(url.clone());
            let before = entries;
            let answer = self.succeed(&Self::get(&url, what))?;
            let page = self.parse(what, &answer)?;
            entries += page.as_array().map_or(0, Vec::len);
            for entry in page.as_array().into_iter().flatten().filter(|e| e["type"] == "file") {
                let (Some(path), Some(size), Some(oid)) =
                    (entry["path"].as_str(), entry["size"].as_u64(), entry["oid"].as_str())
                else {
                    return Err(
                        self.error(Trouble::Network, &format!("{what}: a file has no path, size or digest"))
                    );
                };
                let sha256 = entry["lfs"]["oid"].as_str().map(str::to_owned);
                if path.len() > 4096 || oid.len() > 128 || sha256.as_ref().is_some_and(|s| s.len() > 128) {
                    let what = format!("{what}: a file's name or digest is absurdly long");
                    return Err(self.error(Trouble::Network, &what));
                }
                names += path.len();
                files.insert(path.to_owned(), Entry { size, oid: oid.into(), sha256 });
            }
            if entries > MAX_LISTED || names > MAX_NAMES || asked.len() > MAX_PAGES {
                let what = format!("{what} of {}: it has more than {MAX_LISTED}", self.place);
                return Err(self.error(Trouble::Network, &what));
            }
            match answer.header("link").and_then(next_page) {
                Some(path) if entries == before || asked.contains(&format!("{}{path}", self.origin)) => {
                    let what = format!("{what} of {}: its pages do not end", self.place);
                    return Err(self.error(Trouble::Network, &what));
                }
                // Only the path: where it goes is not for an answer to say.
                Some(path) => url = format!("{}{path}", self.origin),
                None => return Ok(files),
            }
        }
    }

    /// Makes the repository, or the branch where the repository exists. That it is there already is fine.
    pub(super) fn create(&self, exists: bool, public: bool) -> Result<()> {
        let (what, url, body) = if exists {
            let revision = self.place.revision.replace('/', "%2F");
            ("making the branch", self.api(&format!("branch/{revision}")), json!({}))
        } else {
            let body = json!({"type": self.place.kind.name(), "organization": self.place.organisation, "name": self.place.name,
                "private": !public});
            ("creating the repository", format!("{}/api/repos/create", self.options.endpoint), body)
        };
        let answer = self.post(&url, what, &body)?;
        if (200..300).contains(&answer.status) || answer.status == 409 {
            return Ok(());
        }
        let call = Call { writes: true, ..Self::get(&url, what) };
        Err(self.refusal(&call, &answer))
    }

    /// Asks how files are to be sent: `(path, size, first bytes)` of each.
    pub(super) fn modes(&self, files: &[(&str, u64, &[u8])]) -> Result<BTreeMap<String, Mode>> {
        let what = "asking how files are to be sent";
        let list: Vec<Value> = files
            .iter()
            .map(
                |(path, size, sample)| json!({"path": path, "size": size, "sample": STANDARD.encode(sample)}),
            )
            .collect();
        let url = self.api(&format!("preupload/{}", self.place.revision.replace('/', "%2F")));
        let answer = self.post(&url, what, &json!({"files": list}))?;
        if answer.status != 200 {
            return Err(self.refusal(&Call { writes: true, ..Self::get(&url, what) }, &answer));
        }
        let answer = self.parse(what, &answer)?;
        let mut modes = BTreeMap::new();
        for file in answer["files"].as_array().into_iter().flatten() {
            let path = file["path"].as_str().unwrap_or_default();
            if file["shouldIgnore"] == true {
                let text = format!("{what}: the repository's .gitignore leaves out {path}; remove that rule");
                return Err(self.error(Trouble::Right, &text));
            }
            let mode = if file["uploadMode"] == "lfs" { Mode::Large } else { Mode::Regular };
            modes.insert(path.to_owned(), mode);
        }
        // The storage of large files takes no empty ones.
        for (path, _, _) in files.iter().filter(|f| f.1 == 0) {
            modes.insert((*path).to_owned(), Mode::Regular);
        }
        match files.iter().find(|f| !modes.contains_key(f.0)) {
            None => Ok(modes),
            Some(f) => Err(self.error(Trouble::Network, &format!("{what}: no answer about {}", f.0))),
        }
    }

    /// Makes a commit of lines as [`line_of_file`] and [`line_of_large`] write them. `false` if the branch has moved since: at all, or
    /// from `parent`.
    pub(super) fn commit(&self, summary: &str, lines: &[Value], parent: Option<&str>) -> Result<bool> {
        let mut header = json!({"summary": summary, "description": ""});
        if let Some(parent) = parent {
            header["parentCommit"] = parent.into();
        }
        let mut body = json!({"key": "header", "value": header}).to_string();
        for line in lines {
            body.push('\n');
            body.push_str(&line.to_string());
        }
        let url = self.api(&format!("commit/{}", self.place.revision.replace('/', "%2F")));
        let call = Call {
            method: "POST",
            url: &url,
            what: "committing",
            writes: true,
            once: false,
            headers: vec![("content-type".into(), "application/x-ndjson".into())],
            body: Some(body.as_bytes()),
            limit: MAX_ANSWER,
        };
        let answer = self.send(&call)?;
        match answer.status {
            200..=299 => Ok(true),
            409 | 412 => Ok(false),
            _ => Err(self.refusal(&call, &answer)),
        }
    }

    /// Where large files are negotiated.
    pub(super) fn large_files(&self) -> String {
        format!("{}.git/info/lfs/objects/batch", self.page())
    }

    /// The bytes of a file at a commit, of at most so many. The Hub sends large ones elsewhere: each stop on the way is asked by
    /// itself, and only the Hub is told the token.
    pub(super) fn file(&self, commit: &str, path: &str, limit: u64) -> Result<Vec<u8>> {
        let what = format!("fetching {path} of {}", self.place);
        let mut url = format!("{}/resolve/{commit}/{}", self.page(), escaped(path));
        for _ in 0..MAX_STOPS {
            let call = Call { limit, ..Self::get(&url, &what) };
            let answer = self.send(&call)?;
            match (answer.status, answer.header("location")) {
                (200..=299, _) => return Ok(answer.body),
                (300..=399, Some(to)) => {
                    let next = next_stop(&url, to);
                    url = next.ok_or_else(|| {
                        self.error(Trouble::Network, &format!("{what}: is sent on to no address"))
                    })?;
                }
                _ => return Err(self.refusal(&call, &answer)),
            }
        }
        Err(self.error(Trouble::Network, &format!("{what}: is sent on {MAX_STOPS} times")))
    }

    /// The branch.
    pub(super) fn revision(&self) -> &str {
        &self.place.revision
    }
}

/// A path of a repository within an address.
fn escaped(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Path and query of `<...>; rel="next"` in a `Link` header.
fn next_page(link: &str) -> Option<String> {
    let next = link.split(',').find(|l| l.contains("rel=\"next\""))?;
    let address = next.split('<').nth(1)?.split('>').next()?;
    let uri: Uri = address.parse().ok()?;
    uri.path_and_query().map(|p| p.as_str().to_owned()).filter(|p| p.starts_with('/'))
}

/// A file that goes into the commit itself.
pub(super) fn line_of_file(path: &str, bytes: &[u8]) -> Value {
    json!({"key": "file", "value": {"path": path, "encoding": "base64", "content": STANDARD.encode(bytes)}})
}

/// A file whose bytes are in the storage of large files.
pub(super) fn line_of_large(path: &str, sha256: &str, size: u64) -> Value {
    json!({"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": sha256, "size": size}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{Patience, RepoKind, Token};

    fn client(endpoint: &str) -> Client {
        let options = Options {
            endpoint: endpoint.into(),
            token: Token::new("hf_secret"),
            patience: Patience::default(),
            certificates: vec![],
            uploads: 1,
            stop: || false,
        };
        Client::new(options, Place::new(RepoKind::Dataset, "org/name", "main").unwrap()).unwrap()
    }

    #[test]
    fn the_token_goes_to_the_hub_only_and_into_no_text() {
        let client = client("https://hub.example");
        assert!(client.authorization("https://hub.example/api/x").is_some());
        assert!(client.authorization("https://HUB.example/api/x").is_some());
        for other in [
            "http://hub.example/x",
            "https://hub.example:444/x",
            "https://hub.example@evil.example/x",
            "https://evil.example/?https://hub.example",
            "not an address",
        ] {
            assert!(client.authorization(other).is_none(), "{other}");
        }
        let basic = STANDARD.encode("access_token:hf_secret");
        let shown = client.fit(&format!("a hf_secret b {basic} \u{1b}[2J"));
        assert_eq!(shown, "a ... b ...  [2J");
        assert!(!format!("{client:?}").contains("hf_secret"));
    }

    #[test]
    fn digests_are_those_of_git_and_the_next_page_is_found() {
        assert_eq!(git_oid(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
        let link = r#"<https://other.example/api/tree/main?cursor=Zm9v&limit=2>; rel="next""#;
        assert_eq!(next_page(link).unwrap(), "/api/tree/main?cursor=Zm9v&limit=2");
        assert_eq!(next_page(r#"<https://x/y>; rel="prev""#), None);
    }

    #[test]
    fn names_are_those_that_the_hub_gives() {
        let ok = |r: &str, v: &str| Place::new(RepoKind::Model, r, v).is_ok();
        assert!(ok("org/name-1.x_y", "main") && ok("org/name", "refs/pr/1"));
        for bad in ["name", "a/b/c", "../x", "org/..", "org/a b", "org/\u{1b}", "", "/", "org/.x", "org/a--b"]
        {
            assert!(!ok(bad, "main"), "{bad:?}");
        }
        assert!(!ok("org/name", "../x") && !ok("org/name", "") && !ok("org/name", "a?b"));
    }

    #[test]
    fn a_path_within_an_address_is_escaped() {
        assert_eq!(escaped("a b/ü.json"), "a%20b/%C3%BC.json");
    }
}
