/**
 * Turns data checksums on in a database that does not run, as pg_checksums does: initdb of this package has no
 * option for it. A damaged page is then an error, and not another truth.
 *
 * The formats are those of PostgreSQL 17 (src/include/storage/checksum_impl.h, src/include/catalog/pg_control.h).
 */

import fs from "node:fs";
import path from "node:path";

const PAGE_BYTES = 8192;
const SEGMENT_PAGES = 131_072;
const CHECKSUM_AT = 8; // in a page: pd_checksum
const LANES = 32;
const FNV_PRIME = 16_777_619;
const NONCE_BYTES = 32; // between the version of checksums and the CRC in pg_control
const CONTROL_FILE = "global/pg_control";
const RELATION = /^\d+(?:_(?:fsm|vm|init))?(?:\.(\d+))?$/;

// The first states of the lanes, at random but fixed.
const OFFSETS = Uint32Array.of(
  0x5b1f36e9, 0xb8525960, 0x02ab50aa, 0x1de66d2a, 0x79ff467a, 0x9bb9f8a3, 0x217e7cd2, 0x83e13d2c,
  0xf8d4474f, 0xe39eb970, 0x42c6ae16, 0x993216fa, 0x7b093b5d, 0x98daff3c, 0xf718902a, 0x0b1c9cdb,
  0xe58f764b, 0x187636bc, 0x5d7b3bb1, 0xe73de7de, 0x92bec979, 0xcca6c0b2, 0x304a0979, 0x85aa43d4,
  0x783125bb, 0x6ca8eaa2, 0xe407eac6, 0x4b5cfc3e, 0x9fbf8c76, 0x15ca20be, 0xf2ca9fd3, 0x959bd756,
);

/** Of the database in `directory`. */
export function enableChecksums(directory) {
  const folders = ["global", ...fs.readdirSync(path.join(directory, "base")).map((name) => `base/${name}`)];
  for (const folder of folders) {
    for (const name of fs.readdirSync(path.join(directory, folder))) {
      const [relation, segment = "0"] = RELATION.exec(name) ?? [];
      if (relation) sumPages(path.join(directory, folder, name), Number(segment) * SEGMENT_PAGES);
    }
  }
  noteInControlFile(path.join(directory, CONTROL_FILE));
}

function sumPages(file, firstPage) {
  const bytes = fs.readFileSync(file);
  for (let at = 0; at + PAGE_BYTES <= bytes.length; at += PAGE_BYTES) {
    const page = bytes.subarray(at, at + PAGE_BYTES);
    // A page that was never written to has none.
    if (page.readUInt16LE(14) !== 0) page.writeUInt16LE(checksum(page, firstPage + at / PAGE_BYTES), CHECKSUM_AT);
  }
  fs.writeFileSync(file, bytes);
}

function checksum(page, number) {
  page.writeUInt16LE(0, CHECKSUM_AT);
  const sums = OFFSETS.slice();
  const mix = (lane, value) => {
    const mixed = sums[lane] ^ value;
    sums[lane] = Math.imul(mixed, FNV_PRIME) ^ (mixed >>> 17);
  };
  for (let at = 0; at < PAGE_BYTES; at += 4) mix((at / 4) % LANES, page.readUInt32LE(at));
  for (let round = 0; round < 2; round++) for (let lane = 0; lane < LANES; lane++) mix(lane, 0);
  const sum = sums.reduce((all, lane) => all ^ lane, 0);
  return (((sum ^ number) >>> 0) % 65_535) + 1;
}

function noteInControlFile(file) {
  const bytes = fs.readFileSync(file);
  const at = crcPlace(bytes);
  bytes.writeUInt32LE(1, at - NONCE_BYTES - 4);
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, at)), at);
  fs.writeFileSync(file, bytes);
}

/** The CRC closes the record, whose length the file does not tell. */
function crcPlace(bytes) {
  for (let at = NONCE_BYTES + 4; at < 512; at += 4) {
    if (bytes.readUInt32LE(at) === crc32c(bytes.subarray(0, at))) return at;
  }
  throw new Error("pg_control is not as PostgreSQL 17 writes it");
}

function crc32c(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return ~crc >>> 0;
}
