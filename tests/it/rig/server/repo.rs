//! A repo of a hub: the revision call, the tree in pages, `resolve` with redirects to signed URLs, ranges. What is set on a
//! [`Repo`] before it is served decides how it behaves; single paths are scripted over it.

use super::{Answer, Seen, Server};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The commit of every repo that does not say another.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Another one.
pub const OTHER_COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// Where the bytes of files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// `resolve` gives them itself.
    Home,
    /// `resolve` redirects to signed URLs of the same host.
    Here,
    /// `resolve` redirects to signed URLs of another host.
    Elsewhere,
}

#[derive(Debug, Clone)]
pub struct RepoFile {
    pub path: String,
    pub bytes: Arc<[u8]>,
    /// Kept by Git LFS: its SHA-256 is in the listing.
    pub is_lfs: bool,
}

impl RepoFile {
    /// Hex of its SHA-256.
    pub fn sha256(&self) -> String {
        hex(&Sha256::digest(&self.bytes))
    }

    /// Hex of its git blob id, or of its pointer's.
    pub fn blob_id(&self) -> String {
        match self.is_lfs {
            true => git_sha1(self.pointer().as_bytes()),
            false => git_sha1(&self.bytes),
        }
    }

    /// What the hub says as `ETag`.
    pub fn etag(&self) -> String {
        if self.is_lfs { self.sha256() } else { self.blob_id() }
    }

    fn pointer(&self) -> String {
        let (oid, size) = (self.sha256(), self.bytes.len());
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n")
    }
}

/// A repo, and how the hub that has it behaves.
#[derive(Debug, Clone)]
pub struct Repo {
    pub id: String,
    pub files: Vec<RepoFile>,
    pub commit: String,
    /// Revisions and their commits; `main` is there from the start.
    pub revisions: BTreeMap<String, String>,
    /// The path that the endpoint has, as behind a proxy: `` or `/hub`.
    pub prefix: String,
    /// The token that is asked for.
    pub token: Option<String>,
    /// Whether access must be asked for, whatever the token.
    pub is_gated: bool,
    /// Where files' bytes are.
    pub data: Data,
    /// The status of redirects.
    pub redirect: u16,
    /// Requests after which a signed URL answers 403.
    pub signed_uses: Option<usize>,
    /// Entries in a page of the tree.
    pub page_entries: usize,
    /// What links to further pages begin with; the endpoint where there is none.
    pub link_base: Option<String>,
    /// Whether there is a tree; a plain mirror has none.
    pub has_tree: bool,
    /// What `X-Repo-Commit` says; no such header where there is none.
    pub commit_header: Option<String>,
    /// Whether `X-Linked-Etag` and `X-Linked-Size` are sent.
    pub has_linked: bool,
    /// The Xet hash of each file that Git LFS holds.
    pub xet_hash: Option<String>,
    /// Entries of the tree besides the files, as they are.
    pub entries: Vec<Value>,
}

impl Repo {
    /// An empty one, that behaves.
    pub fn new(id: &str) -> Repo {
        Repo {
            id: id.to_owned(),
            files: Vec::new(),
            commit: COMMIT.to_owned(),
            revisions: BTreeMap::from([("main".to_owned(), COMMIT.to_owned())]),
            prefix: String::new(),
            token: None,
            is_gated: false,
            data: Data::Elsewhere,
            redirect: 302,
            signed_uses: None,
            page_entries: 1000,
            link_base: None,
            has_tree: true,
            commit_header: Some(COMMIT.to_owned()),
            has_linked: true,
            xet_hash: None,
            entries: Vec::new(),
        }
    }

    /// With a file that git holds.
    pub fn file(self, path: &str, bytes: impl AsRef<[u8]>) -> Repo {
        self.with(path, bytes.as_ref(), false)
    }

    /// With a file that Git LFS holds.
    pub fn lfs(self, path: &str, bytes: impl AsRef<[u8]>) -> Repo {
        self.with(path, bytes.as_ref(), true)
    }

    fn with(mut self, path: &str, bytes: &[u8], is_lfs: bool) -> Repo {
        self.files.push(RepoFile { path: path.to_owned(), bytes: bytes.into(), is_lfs });
        self
    }

    fn tree(&self) -> Vec<Value> {
        let mut entries = Vec::new();
        for file in &self.files {
            let mut entry = json!({
                "type": "file",
                "path": file.path,
                "size": file.bytes.len(),
                "oid": file.blob_id(),
            });
            if file.is_lfs {
                let pointer_size = file.pointer().len();
                entry["lfs"] =
                    json!({"oid": file.sha256(), "size": file.bytes.len(), "pointerSize": pointer_size});
                if let Some(hash) = &self.xet_hash {
                    entry["xetHash"] = json!(hash);
                }
            }
            entries.push(entry);
        }
        entries.extend(self.entries.iter().cloned());
        entries
    }
}

/// A repo that is being served.
pub struct Served<'a> {
    server: &'a Server,
    pub repo: Repo,
}

impl Server {
    /// Serves a repo.
    pub fn hub(&self, repo: Repo) -> Served<'_> {
        let mut digests = BTreeMap::new();
        for (index, file) in repo.files.iter().enumerate() {
            digests.insert(file.etag(), index);
        }
        let hub = Hub { repo: repo.clone(), digests, base: self.url(""), elsewhere: self.elsewhere("") };
        let uses = Mutex::new((0, BTreeMap::new()));
        self.otherwise(move |seen| hub.answer(seen, &mut uses.lock().unwrap()));
        Served { server: self, repo }
    }
}

impl Served<'_> {
    /// For `HF_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        self.server.url(&self.repo.prefix)
    }

    /// The file of this path.
    pub fn file(&self, path: &str) -> &RepoFile {
        self.repo.files.iter().find(|f| f.path == path).unwrap()
    }

    /// The path of the revision call.
    pub fn revision_path(&self, revision: &str) -> String {
        format!("{}/api/models/{}/revision/{}", self.repo.prefix, self.repo.id, escape(revision, false))
    }

    /// The path of the tree.
    pub fn tree_path(&self) -> String {
        format!("{}/api/models/{}/tree/{}", self.repo.prefix, self.repo.id, self.repo.commit)
    }

    /// The path of a file at the hub.
    pub fn resolve_path(&self, file: &str) -> String {
        let Repo { prefix, id, commit, .. } = &self.repo;
        format!("{prefix}/{id}/resolve/{commit}/{}", escape(file, true))
    }

    /// The path of a file's bytes, behind the redirect.
    pub fn data_path(&self, file: &str) -> String {
        format!("/data/{}", self.file(file).etag())
    }

    /// Scripts what the bytes of a file are answered with; [`Answer::usual`] with faults keeps the rest.
    pub fn data(&self, file: &str, answers: impl IntoIterator<Item = Answer>) {
        match self.repo.data {
            Data::Home => self.server.on(&self.resolve_path(file), answers),
            _ => self.server.on(&self.data_path(file), answers),
        }
    }

    /// Scripts what the hub answers for a file.
    pub fn resolve(&self, file: &str, answers: impl IntoIterator<Item = Answer>) {
        self.server.on(&self.resolve_path(file), answers);
    }

    /// How often the hub was asked for a file.
    pub fn resolve_count(&self, file: &str) -> usize {
        let path = self.resolve_path(file);
        self.server.log().iter().filter(|seen| seen.path == path).count()
    }

    /// How often a file's bytes were asked for.
    pub fn data_count(&self, file: &str) -> usize {
        let path = self.data_path(file);
        self.server.log().iter().filter(|seen| seen.path == path).count()
    }
}

struct Hub {
    repo: Repo,
    digests: BTreeMap<String, usize>,
    base: String,
    elsewhere: String,
}

/// The next signature, and how often each was used.
type Uses = (usize, BTreeMap<String, usize>);

impl Hub {
    fn answer(&self, seen: &Seen, uses: &mut Uses) -> Option<Answer> {
        if let Some(digest) = seen.path.strip_prefix("/data/") {
            return self.data(digest, &seen.query, uses);
        }
        let path = seen.path.strip_prefix(&self.repo.prefix)?;
        let id = &self.repo.id;
        let of_api = path.strip_prefix(&format!("/api/models/{id}/"));
        let of_file = path.strip_prefix(&format!("/{id}/resolve/"));
        if of_api.is_none() && of_file.is_none() {
            return path
                .contains("/models/")
                .then(|| self.refused(401, "RepoNotFound", "Invalid username or password."));
        }
        if self.repo.token.is_some() && seen.token != self.repo.token {
            return Some(self.refused(401, "RepoNotFound", "Invalid username or password."));
        }
        if self.repo.is_gated && of_file.is_some() {
            let status = if seen.token.is_some() { 403 } else { 401 };
            return Some(self.refused(status, "GatedRepo", "Access to this model is restricted"));
        }
        if let Some(revision) = of_api.and_then(|p| p.strip_prefix("revision/")) {
            return Some(match self.commit(&unescape(revision)) {
                Some(commit) => self.revision(&commit),
                None => self.refused(404, "RevisionNotFound", "Invalid rev id"),
            });
        }
        if let Some(revision) = of_api.and_then(|p| p.strip_prefix("tree/")) {
            return Some(match self.commit(&unescape(revision)) {
                _ if !self.repo.has_tree => Answer::status(404),
                Some(_) => self.tree(path, &seen.query),
                None => self.refused(404, "RevisionNotFound", "Invalid rev id"),
            });
        }
        let (revision, file) = of_file?.split_once('/')?;
        if self.commit(&unescape(revision)).is_none() {
            return Some(self.refused(404, "RevisionNotFound", "Invalid rev id"));
        }
        let file = unescape(file);
        Some(match self.repo.files.iter().find(|f| f.path == file) {
            Some(file) => self.resolve(file, uses),
            None => self.refused(404, "EntryNotFound", "Entry not found"),
        })
    }

    fn commit(&self, revision: &str) -> Option<String> {
        match revision == self.repo.commit {
            true => Some(revision.to_owned()),
            false => self.repo.revisions.get(revision).cloned(),
        }
    }

    fn refused(&self, status: u16, code: &str, message: &str) -> Answer {
        Answer::status(status).header("X-Error-Code", code).header("X-Error-Message", message)
    }

    fn with_commit(&self, answer: Answer) -> Answer {
        match &self.repo.commit_header {
            Some(commit) => answer.header("X-Repo-Commit", commit.clone()),
            None => answer,
        }
    }

    fn revision(&self, commit: &str) -> Answer {
        let siblings: Vec<_> = self.repo.files.iter().map(|f| json!({"rfilename": f.path})).collect();
        let text = json!({"id": self.repo.id, "sha": commit, "private": false, "siblings": siblings});
        Answer::json(text.to_string())
    }

    fn tree(&self, path: &str, query: &str) -> Answer {
        let entries = self.repo.tree();
        let from = query.split('&').find_map(|q| q.strip_prefix("cursor=")?.parse().ok()).unwrap_or(0);
        let from: usize = entries.len().min(from);
        let end = entries.len().min(from + self.repo.page_entries);
        let answer = Answer::json(Value::from(entries[from..end].to_vec()).to_string());
        if end == entries.len() {
            return answer;
        }
        let own = format!("{}{}", self.base, self.repo.prefix);
        let base = self.repo.link_base.as_deref().unwrap_or(&own);
        let link = format!("<{base}{path}?recursive=true&expand=false&cursor={end}>; rel=\"next\"");
        answer.header("Link", link)
    }

    fn resolve(&self, file: &RepoFile, uses: &mut Uses) -> Answer {
        let etag = format!("\"{}\"", file.etag());
        let mut answer = match self.repo.data {
            Data::Home => Answer::file(&file.bytes).header("ETag", &etag),
            Data::Here | Data::Elsewhere => {
                uses.0 += 1;
                let host = if self.repo.data == Data::Here { &self.base } else { &self.elsewhere };
                let place = format!("{host}/data/{}?signature=secret{}", file.etag(), uses.0);
                Answer::redirect(self.repo.redirect, place)
            }
        };
        if self.repo.has_linked {
            answer =
                answer.header("X-Linked-Etag", etag).header("X-Linked-Size", file.bytes.len().to_string());
        }
        self.with_commit(answer)
    }

    fn data(&self, digest: &str, query: &str, uses: &mut Uses) -> Option<Answer> {
        let file = &self.repo.files[*self.digests.get(digest)?];
        let used = uses.1.entry(query.to_owned()).or_default();
        *used += 1;
        if !query.starts_with("signature=secret") || self.repo.signed_uses.is_some_and(|most| *used > most) {
            return Some(Answer::status(403));
        }
        Some(Answer::file(&file.bytes).header("ETag", "\"of-the-store\""))
    }
}

/// Percent-escapes what is not plain; `/` too unless it stays.
fn escape(text: &str, keep_slash: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (keep_slash && b == b'/');
    text.bytes().map(|b| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[at], code) {
            (b'%', Some(code)) => {
                out.push(code);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Bytes as hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The id that git gives a file: SHA-1 of `blob SIZE\0` and the bytes. Plain and slow, a twin of the one that ships.
pub fn git_sha1(bytes: &[u8]) -> String {
    let mut message = format!("blob {}\0", bytes.len()).into_bytes();
    message.extend_from_slice(bytes);
    let bits = message.len() as u64 * 8;
    message.push(0x80);
    while message.len() % 64 != 56 {
        message.push(0);
    }
    message.extend_from_slice(&bits.to_be_bytes());
    let mut h: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    for block in message.chunks_exact(64) {
        let mut w = [0u32; 80];
        for (word, four) in w.iter_mut().zip(block.chunks_exact(4)) {
            *word = u32::from_be_bytes(four.try_into().unwrap());
        }
        for i in 16..80 {
            w[i] = (w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = h;
        for (i, word) in w.iter().enumerate() {
            let (f, k) = match i / 20 {
                0 => ((b & c) | (!b & d), 0x5a82_7999),
                1 => (b ^ c ^ d, 0x6ed9_eba1),
                2 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6),
            };
            let sum = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(k).wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, sum);
        }
        for (h, v) in h.iter_mut().zip([a, b, c, d, e]) {
            *h = h.wrapping_add(v);
        }
    }
    h.iter().map(|v| format!("{v:08x}")).collect()
}

#[test]
fn blob_ids_are_git_s() {
    assert_eq!(git_sha1(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    assert_eq!(git_sha1(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
    assert_eq!(git_sha1(&[b'a'; 200]).len(), 40);
}
