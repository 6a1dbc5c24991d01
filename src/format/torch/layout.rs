//! Laying a PyTorch file out: the zip form, as torch 2.15 writes it for an `OrderedDict` of tensors.
//!
//! Of the file all is known beforehand but the CRC-32 of each storage, which is known when its data has been copied:
//! [`TorchLaid::seal`] gives the bytes that carry them. They must be true: torch itself checks them when it does not map
//! the file, and so do all readers of zips.
//!
//! Two things differ from torch's own file of the same tensors. `.data/serialization_id` is made of a hash of the table,
//! where torch hashes the data, which is not known yet; nothing reads it. And the dict has no `_metadata` (versions of
//! modules), which `load_state_dict` does without.

use super::write_pickle::{self, Item};
use super::write_zip::{self, ALIGNMENT_BYTES, Member};
use super::zip::crc32;
use crate::error::{Error, Result};
use crate::format::layout::{Entry, Laid, refuse_twins};
use crate::text::Shown;
use xxhash_rust::xxh3::xxh3_128;

/// A PyTorch file laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TorchLaid {
    /// The file. The bytes of [`TorchLaid::seal`] belong to it too and are in its size.
    pub laid: Laid,
    /// The tensor that each storage is, in the file's order: those that are their own `firsts`.
    pub storages: Vec<usize>,
    /// The zip's members, and the CRC-32 of those whose data is known.
    members: Vec<(Member, Option<u32>)>,
    /// Where the directory begins.
    directory_bytes: u64,
}

/// Lays a file out. `firsts[i]` is the tensor whose storage tensor `i` is: itself, or an earlier one of the same type
/// and size (tied weights); see [`Checkpoint::firsts`](crate::checkpoint::Checkpoint::firsts). `stem` is the name of the
/// zip's one folder: torch takes the file's name up to its last dot.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) for types that torch has not (blocks of ggml, packs of six bits),
/// [`BadInput`](crate::ErrorKind::BadInput) for shapes that are none and names that would be there twice.
pub fn lay_out(tensors: &[Entry], firsts: &[usize], stem: &str) -> Result<TorchLaid> {
    refuse_twins(tensors)?;
    if stem.is_empty() || stem.len() > 255 || stem.contains(['/', '\\', '\0']) {
        let message = format!("the folder inside a PyTorch file cannot be called `{}`", Shown(stem));
        return Err(Error::usage(message));
    }
    let mut storages: Vec<usize> = Vec::with_capacity(tensors.len());
    let mut storage_of = Vec::with_capacity(tensors.len());
    let mut items = Vec::with_capacity(tensors.len());
    for (index, tensor) in tensors.iter().enumerate() {
        let first = firsts.get(index).copied().unwrap_or(index);
        let storage = match first == index {
            true => {
                storages.push(index);
                storages.len() - 1
            }
            false => shared(tensors, &storages, &storage_of, index, first)?,
        };
        storage_of.push(storage);
        items.push(Item {
            name: &tensor.name,
            dtype: tensor.dtype,
            shape: &tensor.shape,
            storage,
            size_bytes: tensor.size_bytes()?,
        });
    }
    let pickle = write_pickle::state_dict(&items)?;
    let id = format!("{:040}", xxh3_128(&pickle));

    let mut zip =
        Zip { stem, fixed: Vec::new(), members: Vec::with_capacity(storages.len() + 6), end_bytes: 0 };
    zip.known("data.pkl", pickle)?;
    zip.known(".format_version", b"1".to_vec())?;
    zip.known(".storage_alignment", ALIGNMENT_BYTES.to_string().into())?;
    zip.known("byteorder", b"little".to_vec())?;
    let mut places = Vec::with_capacity(storages.len());
    for (key, &index) in storages.iter().enumerate() {
        let tensor = &tensors[index];
        places.push(zip.storage(key, tensor.size_bytes()?).map_err(|e| e.tensor(&tensor.name))?);
    }
    zip.known("version", b"3\n".to_vec())?;
    zip.known(".data/serialization_id", id.into())?;

    let Zip { fixed, members, end_bytes: directory_bytes, .. } = zip;
    let records = write_zip::directory(members.iter().map(|(m, _)| (m, 0)), directory_bytes);
    let file_size_bytes = crate::format::layout::end_bytes(directory_bytes, records.len() as u64)?;
    let offsets_bytes = storage_of.iter().map(|&s| places[s]).collect();
    let laid = Laid { fixed, offsets_bytes, file_size_bytes };
    Ok(TorchLaid { laid, storages, members, directory_bytes })
}

/// The storage of an earlier tensor, for one that is the same bytes.
fn shared(
    tensors: &[Entry],
    storages: &[usize],
    storage_of: &[usize],
    index: usize,
    first: usize,
) -> Result<usize> {
    let storage = storage_of.get(first).copied().filter(|&s| storages.get(s) == Some(&first));
    let same = storage.is_some()
        && tensors[first].dtype == tensors[index].dtype
        && tensors[first].size_bytes()? == tensors[index].size_bytes()?;
    storage.filter(|_| same).ok_or_else(|| {
        Error::bug("is said to share a storage that is not its own").tensor(&tensors[index].name)
    })
}

impl TorchLaid {
    /// The bytes that are known when all data is, and where they go: what follows each storage, and the zip's directory.
    /// One CRC-32 (reflected 0x04c11db7, as zip has it) for each of [`TorchLaid::storages`].
    pub fn seal(&self, crc32s: &[u32]) -> Result<Vec<(u64, Vec<u8>)>> {
        if crc32s.len() != self.storages.len() {
            let message = format!("{} checksums for {} storages", crc32s.len(), self.storages.len());
            return Err(Error::bug(message));
        }
        let mut left = crc32s.iter().copied();
        let sums: Vec<u32> =
            self.members.iter().map(|(_, known)| known.unwrap_or_else(|| left.next().unwrap_or(0))).collect();
        let mut pieces = Vec::with_capacity(self.storages.len() + 1);
        for ((member, known), &sum) in self.members.iter().zip(&sums) {
            if known.is_none() && member.size_bytes > 0 {
                // No overflow: the file's end lies behind it.
                pieces.push((member.data_bytes + member.size_bytes, member.descriptor(sum)));
            }
        }
        let members = self.members.iter().zip(sums).map(|((member, _), sum)| (member, sum));
        pieces.push((self.directory_bytes, write_zip::directory(members, self.directory_bytes)));
        Ok(pieces)
    }
}

/// Reads the file back with our own reader and compares what it finds with what was to be written. To be called before
/// data follows.
pub fn check(torch: &TorchLaid, tensors: &[Entry]) -> Result<()> {
    let sealed = torch.seal(&vec![0; torch.storages.len()])?;
    torch.laid.check(tensors, &sealed, super::parse_zip)
}

/// A zip that grows.
struct Zip<'a> {
    stem: &'a str,
    fixed: Vec<(u64, Vec<u8>)>,
    members: Vec<(Member, Option<u32>)>,
    end_bytes: u64,
}

impl Zip<'_> {
    /// Adds a member whose data is known.
    fn known(&mut self, name: &str, data: Vec<u8>) -> Result<()> {
        let member = Member::at(format!("{}/{name}", self.stem), self.end_bytes, data.len() as u64)?;
        let sum = crc32(&data);
        let mut bytes = member.local_header();
        bytes.extend(data);
        bytes.extend(member.descriptor(sum));
        self.add(member, Some(sum), bytes)
    }

    /// Adds a storage; where its data begins.
    fn storage(&mut self, key: usize, size_bytes: u64) -> Result<u64> {
        let member = Member::at(format!("{}/data/{key}", self.stem), self.end_bytes, size_bytes)?;
        let (data_bytes, header) = (member.data_bytes, member.local_header());
        self.add(member, None, header)?;
        Ok(data_bytes)
    }

    fn add(&mut self, member: Member, sum: Option<u32>, bytes: Vec<u8>) -> Result<()> {
        let at_bytes = self.end_bytes;
        self.end_bytes = member.end_bytes()?;
        self.members.push((member, sum));
        match self.fixed.last_mut() {
            Some((last, before)) if *last + before.len() as u64 == at_bytes => before.extend(bytes),
            _ => self.fixed.push((at_bytes, bytes)),
        }
        Ok(())
    }
}
