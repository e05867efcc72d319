// The rows of a tree of jobs of any size. Each level is a chain of the server's pages, of which those in view are loaded, kept
// fresh and let go again when they are far away; open groups put their own level below their row.
import { signal } from '@preact/signals'
import * as api from '../api.js'
import { unlessAway } from '../poll.js'

const PAGE = 100
const KEPT = 4_000 // rows of a level that stay in memory
const FIELDS = [
  'id', 'parent', 'title', 'group', 'state', 'paused', 'priority', 'affinity', 'user', 'progress', 'progress_pattern', 'created_at', 'started_at',
  'ended_at', 'run_s', 'cost_micro', 'errors', 'worker', 'counts', 'reason', 'allowed_actions', 'url',
].join()

// Rows that follow a cursor, `offset` further on. Never used: `size` is what is expected, and may be more than a call brings. Settled:
// `rows` are those that follow it, or the server will not tell; what was moved by a page before it is loaded once more.
const pageAt = (cursor, offset = 0, size = 0) => ({ cursor, offset, size, rows: null, used: 0, settled: false })

class Level {
  constructor(query) {
    this.query = query
    this.pages = [pageAt('')]
    this.children = new Map() // id -> the level of an open group
    this.total = 0 // at least so many rows
    this.counts = null
    this.more = false
    this.answered = false // its rows may be let go again, but they were there
  }

  // Rows, loaded or expected.
  get known() {
    return this.pages.reduce((sum, page) => sum + page.size, 0)
  }

  get loaded() {
    return this.pages.reduce((sum, page) => sum + (page.rows?.length ?? 0), 0)
  }

  get end() {
    return this.pages[this.pages.length - 1]
  }

  // As known; where nobody told how many follow, a few more.
  get length() {
    const { size, settled } = this.end
    return this.known + (this.answered && !size && !settled ? PAGE : 0)
  }

  at(index) {
    let from = 0
    for (const page of this.pages) {
      if (index < from + page.size) return page.rows?.[index - from]
      from += page.size
    }
    return undefined
  }

  // The pages that hold rows from `first` to `last`; beyond the end the one that would follow, and where nothing is, the first.
  within(first, last) {
    const found = []
    let from = 0
    for (let at = 0; at < this.pages.length; at += 1) {
      if (from + this.pages[at].size > first && from <= last) this.cut(at, Math.max(0, first - from))
      const page = this.pages[at]
      if (from + page.size > first && from <= last) found.push(page)
      from += page.size
    }
    const { end } = this
    if (last >= from && !end.size && !end.settled) found.push(end)
    return from ? found : this.pages
  }

  // Of a page of more rows than a call brings: what is before, the part around `row`, and what is after.
  cut(at, row) {
    const { cursor, offset, size } = this.pages[at]
    if (size <= PAGE) return
    const [from, to] = [Math.floor(row / PAGE) * PAGE, Math.min(size, (Math.floor(row / PAGE) + 1) * PAGE)]
    const parts = [pageAt(cursor, offset, from), pageAt(cursor, offset + from, to - from), pageAt(cursor, offset + to, size - to)]
    this.pages.splice(at, 1, ...parts.filter((page) => page.size))
  }

  async load(page) {
    const { cursor, offset } = page
    const answer = await api.page({ ...this.query, fields: FIELDS, limit: PAGE, cursor, offset: offset || '' })
    if (!this.pages.includes(page)) return
    this.answered = true
    const begins = answer.cursor ?? cursor
    if (page.cursor === cursor && page.offset === offset) {
      if (offset) this.shorten(page, answer.offset)
      Object.assign(page, { cursor: begins, offset: 0 })
    }
    Object.assign(page, { rows: answer.jobs, size: answer.jobs.length, used: performance.now(), settled: page.cursor === begins && !page.offset })
    this.chain(page, answer.next)
    if (!cursor && !offset) this.count(answer)
    this.forget()
  }

  // Between the last page that was loaded before a page and it are no more rows than that.
  shorten(page, rows) {
    const to = this.pages.indexOf(page)
    const from = this.pages.findLastIndex((one, at) => at < to && one.used) + 1
    let left = rows
    const run = this.pages.slice(from, to)
    for (const one of run) {
      one.size = Math.min(one.size, left)
      left -= one.size
    }
    this.pages.splice(from, run.length, ...run.filter((one) => one.size))
  }

  // What follows a page begins where it ends now. An end that was empty is so no more when something follows.
  chain(page, next) {
    const at = this.pages.indexOf(page)
    const following = this.pages[at + 1]
    if (next === null) this.pages.length = at + 1
    else if (!following) this.pages.push(pageAt(next))
    else if (following.cursor !== next || following.offset || (following === this.end && !following.size)) {
      Object.assign(following, { cursor: next, offset: 0, settled: false })
    }
  }

  count({ total, more, next, counts }) {
    this.total = total ?? 0
    this.more = Boolean(more) || (total === null && next !== null)
    this.counts = counts
    // beyond what the server counts: no level has more rows than there are jobs below it, unless it is full of groups
    if (this.more && counts && !this.query.filter) this.total = Math.max(this.total, counts.total)
    const { end, known } = this
    if (!end.used && total !== null) end.size = Math.max(0, this.total - (known - end.size))
  }

  forget() {
    const held = this.pages.filter((page) => page.rows)
    const far = held.sort((a, b) => a.used - b.used).filter((page) => !page.rows.some((job) => this.children.has(job.id)))
    for (let rows = held.reduce((sum, page) => sum + page.size, 0); rows > KEPT && far.length > 3; ) {
      const page = far.shift()
      rows -= page.size
      Object.assign(page, { rows: null, settled: false })
    }
  }
}

export class Tree {
  constructor(query) {
    this.root = new Level(query)
    this.opened = new Set()
    this.version = signal(0)
    this.runs = []
    this.view = [0, 40]
    this.error = null
    this.layout()
  }

  get loaded() {
    return this.root.answered
  }

  // Runs of rows of one level, between the groups that are open: the way from a row's number to the row.
  layout() {
    this.runs = []
    this.length = this.place(this.root, 0, 0)
  }

  place(level, depth, from) {
    const opened = []
    let index = 0
    for (const page of level.children.size ? level.pages : []) {
      page.rows?.forEach((job, at) => level.children.has(job.id) && opened.push([index + at, level.children.get(job.id)]))
      index += page.size
    }
    let done = 0
    for (const [at, below] of opened) {
      this.runs.push({ level, depth, from, first: done, count: at + 1 - done })
      from = this.place(below, depth + 1, from + at + 1 - done)
      done = at + 1
    }
    this.runs.push({ level, depth, from, first: done, count: level.length - done })
    return from + level.length - done
  }

  // The row of a number: {job, depth, level, at}; `job` is undefined while it is not loaded.
  row(number) {
    const run = this.runs.find(({ from, count }) => number >= from && number < from + count)
    if (!run) return undefined
    const at = run.first + number - run.from
    return { job: run.level.at(at), depth: run.depth, level: run.level, at }
  }

  // All that are loaded; who draws them draws them again when they change.
  *rows() {
    this.version.value
    const seen = new Set()
    for (const { level } of this.runs) {
      if (seen.has(level)) continue
      seen.add(level)
      for (const page of level.pages) yield* page.rows || []
    }
  }

  find(id) {
    for (const job of this.rows()) if (job.id === id) return job
    return undefined
  }

  numberOf(id) {
    for (const { level, from, first, count } of this.runs) {
      let index = 0
      for (const page of level.pages) {
        const at = index + (page.rows?.findIndex((job) => job.id === id) ?? -1)
        if (at >= Math.max(index, first) && at < first + count) return from + at - first
        index += page.size
      }
    }
    return -1
  }

  // Loads what is in view and not there yet.
  show(first, last) {
    this.view = [first, Math.max(first, last)]
    return unlessAway(() => this.fetch((page) => !page.settled))
  }

  // Loads what is in view again.
  refresh = async () => {
    await this.fetch(() => true)
    return this.version.value
  }

  async fetch(wanted) {
    const [first, last] = this.view
    const calls = []
    for (const { level, from, first: start, count } of this.runs) {
      if (from > last + 1 || (count && from + count <= first)) continue // a group just opened has no rows yet
      const end = Math.max(0, Math.min(last - from, count - 1))
      for (const page of level.within(start + Math.max(0, first - from), start + end)) {
        if (!page.busy && wanted(page)) calls.push(this.load(level, page))
      }
    }
    if (calls.length) await Promise.all(calls)
  }

  async load(level, page) {
    page.busy = true
    try {
      await level.load(page)
      this.error = null
    } catch (error) {
      if (error.status === undefined || error.away || error.status === 401) throw error
      this.error = error
      page.rows ??= []
      page.settled = true // it is asked for again, but not at once
    } finally {
      page.busy = false
    }
    this.layout()
    this.version.value += 1
    await this.show(...this.view) // what was moved by it
  }

  toggle(id, open = !this.opened.has(id)) {
    const level = this.runs.map((run) => run.level).find((one) => one.pages.some((page) => page.rows?.some((job) => job.id === id)))
    if (!level) return
    if (open) {
      this.opened.add(id)
      level.children.set(id, new Level({ parent: id, sort: 'id' }))
    } else {
      this.opened.delete(id)
      level.children.delete(id)
    }
    this.layout()
    this.version.value += 1
    this.show(...this.view)
  }
}
