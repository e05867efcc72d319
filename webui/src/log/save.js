// A whole log as a file, fetched piece by piece.
import { save } from '../jobs/csv.js'

export async function saveLog(name, read) {
  const parts = []
  let offset = 0
  for (;;) {
    const piece = await read(offset)
    if (!piece.bytes.length) break
    parts.push(piece.bytes)
    offset = piece.offset + piece.bytes.length
    if (offset >= piece.size) break
  }
  save(name, parts, 'text/plain')
}
