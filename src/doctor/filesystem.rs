//! Which file system a path lies on, and on which device: from the kernel's table of mounts, else by its magic number.

use std::path::Path;

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Its type: `ext4`, `nfs4`, `tmpfs`.
    pub kind: String,
    /// What it lies on: a device's or a server's name; `None` where there is none.
    pub device: Option<String>,
}

/// The file system of a path.
pub(super) fn of(path: &Path) -> Option<FileSystem> {
    let path = path.canonicalize().ok()?;
    std::fs::read_to_string("/proc/self/mountinfo")
        .ok()
        .and_then(|table| find(&table, &path))
        .or_else(|| by_magic(&path))
}

/// Looks a path up in a table of mounts: the longest mount point above it, of equals the last, which hides the others.
fn find(table: &str, path: &Path) -> Option<FileSystem> {
    let mut best: Option<(usize, FileSystem)> = None;
    for line in table.lines() {
        // 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
        let Some((front, back)) = line.split_once(" - ") else { continue };
        let Some(point) = front.split(' ').nth(4).map(unescape) else { continue };
        let mut fields = back.split(' ');
        let (Some(kind), Some(source)) = (fields.next(), fields.next()) else { continue };
        let depth = Path::new(&point).components().count();
        if path.starts_with(&point) && best.as_ref().is_none_or(|(d, _)| depth >= *d) {
            let source = unescape(source);
            let device = match source.strip_prefix("/dev/") {
                Some(device) => Some(device.to_owned()),
                // A server's export; a name that only repeats the type is no device.
                None => (source.contains(['/', ':'])).then_some(source),
            };
            best = Some((depth, FileSystem { kind: kind.to_owned(), device }));
        }
    }
    best.map(|(_, file_system)| file_system)
}

/// Undoes the kernel's `\040` for a space and the like.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, later)) = rest.split_first() {
        let code = later.get(..3).filter(|d| first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match code.and_then(|d| u8::try_from(d.iter().fold(0u32, |n, b| n * 8 + u32::from(b - b'0'))).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = later.get(3..).unwrap_or_default();
            }
            None => {
                out.push(first);
                rest = later;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Magic numbers of statfs(2) and the kernel's magic.h, for where /proc cannot be read.
#[cfg(target_os = "linux")]
const MAGIC: &[(u32, &str)] = &[
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x9584_58f6, "hugetlbfs"),
    (0x794c_7630, "overlay"),
    (0x7371_7368, "squashfs"),
    (0x6969, "nfs"),
    (0xfe53_4d42, "smb"),
    (0xff53_4d42, "cifs"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x0bd0_0bd0, "lustre"),
    (0x00c3_6400, "ceph"),
    (0x4750_4653, "gpfs"),
    (0x1983_0326, "beegfs"),
];

fn by_magic(path: &Path) -> Option<FileSystem> {
    #[cfg(target_os = "linux")]
    {
        let magic = rustix::fs::statfs(path).ok()?.f_type as u32;
        let row = MAGIC.iter().find(|(m, _)| *m == magic);
        let kind = row.map_or_else(|| format!("unknown ({magic:#x})"), |(_, kind)| (*kind).to_owned());
        Some(FileSystem { kind, device: None })
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts() {
        const TABLE: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 0:27 / /dev/shm rw,relatime - tmpfs tmpfs rw
31 27 0:33 / /mnt/my\\040models rw shared:1 - nfs4 host:/export\\040a rw
32 27 0:34 / /data rw - btrfs /dev/mapper/vg-data rw
33 27 0:35 / /data rw - overlay overlay rw,lowerdir=/a
garbage
34 27 0:36 / /database rw - xfs /dev/nvme0n1p1 rw";
        for (path, kind, device) in [
            ("/home/a", "ext4", Some("vda")),
            ("/dev/shm/x", "tmpfs", None),
            ("/dev/shmem", "ext4", Some("vda")),
            ("/mnt/my models/a", "nfs4", Some("host:/export a")),
            ("/data/a", "overlay", None),
            ("/database", "xfs", Some("nvme0n1p1")),
        ] {
            let expected = FileSystem { kind: kind.into(), device: device.map(str::to_owned) };
            assert_eq!(find(TABLE, Path::new(path)), Some(expected), "{path}");
        }
        assert_eq!(find("", Path::new("/")), None);
        assert_eq!(unescape("a\\0b\\777\\"), "a\\0b\\777\\");
    }
}
