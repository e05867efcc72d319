// A log of any size, of which some is in memory: pieces of whole lines, from the end back, or around a place, or on as it grows.
import { signal } from '@preact/signals'
import { toLines } from '../ansi.js'

const PIECE = 64 * 1024
const KEPT = 6 // pieces
const NEWLINE = 10
const decoder = new TextDecoder()

// A piece that was read: where each of its lines begins, and what they say.
function made(offset, bytes) {
  const starts = [offset]
  for (let at = bytes.indexOf(NEWLINE); at >= 0 && at < bytes.length - 1; at = bytes.indexOf(NEWLINE, at + 1)) starts.push(offset + at + 1)
  const text = decoder.decode(bytes).replace(/\n$/, '')
  return { offset, bytes, end: offset + bytes.length, lines: toLines(text).map((parts, at) => ({ at: starts[at], parts, text: parts.map((part) => part.text).join('') })) }
}

const joined = (a, b) => {
  const both = new Uint8Array(a.length + b.length)
  both.set(a)
  both.set(b, a.length)
  return both
}

export class Reader {
  // `read(offset, limit)` gives {bytes, offset, size, open, attempt}.
  constructor(read) {
    this.read = read
    this.forget()
    this.version = signal(0)
  }

  forget() {
    this.pieces = []
    this.size = 0
    this.open = false
    this.attempt = 0
    this.busy = null
  }

  get first() {
    return this.pieces[0]?.offset ?? 0
  }

  get end() {
    return this.pieces[this.pieces.length - 1]?.end ?? 0
  }

  get lines() {
    return this.pieces.flatMap((piece) => piece.lines)
  }

  // One call at a time; who asks meanwhile waits for it.
  once(step) {
    this.busy ||= step().finally(() => {
      this.busy = null
      this.version.value += 1
    })
    return this.busy
  }

  // After what is being read, for what gives another answer than that.
  async after(step) {
    while (this.busy) await this.busy
    return this.once(step)
  }

  async take(offset, limit) {
    const answer = await this.read(offset, limit)
    if (this.attempt && answer.attempt !== this.attempt) {
      this.forget()
      return this.take(-PIECE, PIECE)
    }
    Object.assign(this, { size: answer.size, open: answer.open, attempt: answer.attempt })
    return answer
  }

  // Begins at the end, or with the line at a byte.
  begin = (at = null) =>
    this.after(async () => {
      const answer = await this.take(at === null ? -PIECE : Math.max(0, at - 1), PIECE)
      const cut = answer.offset > 0 ? answer.bytes.indexOf(NEWLINE) + 1 : 0
      this.pieces = answer.bytes.length ? [made(answer.offset + cut, answer.bytes.slice(cut))] : []
    })

  earlier = () =>
    this.once(async () => {
      const { first } = this
      if (!first) return
      const from = Math.max(0, first - PIECE)
      const answer = await this.take(from, first - from)
      if (answer.offset !== from) return
      const cut = from > 0 ? answer.bytes.indexOf(NEWLINE) + 1 : 0
      this.pieces.unshift(made(from + cut, answer.bytes.slice(cut)))
      if (this.pieces.length > KEPT) this.pieces.length = KEPT
    })

  // Back to the nearest line before what is here that fits; it, and what is around it, is then all that is here. Its place, or -1.
  back = (fits, furthest) =>
    this.after(async () => {
      let end = this.first
      for (let turn = 0; end > 0 && turn < furthest; turn += 1) {
        const from = Math.max(0, end - PIECE)
        const answer = await this.take(from, end - from)
        if (answer.offset !== from) return -1
        const cut = from > 0 ? answer.bytes.indexOf(NEWLINE) + 1 : 0
        const piece = made(from + cut, answer.bytes.slice(cut))
        const line = piece.lines.findLast(fits)
        if (line) {
          this.pieces = [piece]
          return line.at
        }
        end = from + cut
        if (end === from + answer.bytes.length) end = from // one endless line
      }
      return -1
    })

  // How long it is by now. What is read stays, though another attempt has begun.
  measure = () =>
    this.once(async () => {
      const { attempt, size, open } = await this.read(this.end, 1)
      if (attempt === this.attempt) Object.assign(this, { size, open })
    })

  // What comes after what is here: the rest of the log, or what was printed meanwhile.
  later = () =>
    this.once(async () => {
      const answer = await this.take(this.pieces.length ? this.end : -PIECE, PIECE)
      if (!answer.bytes.length) return
      const last = this.pieces[this.pieces.length - 1]
      const grows = last && answer.offset === last.end && (last.bytes.length < PIECE || last.bytes[last.bytes.length - 1] !== NEWLINE)
      if (grows) this.pieces[this.pieces.length - 1] = made(last.offset, joined(last.bytes, answer.bytes))
      else this.pieces.push(made(answer.offset, answer.bytes))
      if (this.pieces.length > KEPT) this.pieces.shift()
    })
}
