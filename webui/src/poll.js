// The one poller: about once a second it loads those of what the views on screen have asked for that the server says has changed,
// and knows whether the server answers.
import { signal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import { changes, logIn, logOut, setToken, token } from './api.js'

const VISIBLE_MS = 1_000
const HIDDEN_MS = 15_000
const RETRY_MS = 2_000
const WAIT_S = 15
const REFUSED_TURNS = 5 // after so many rounds what was refused is asked for again
const ANYWAY_MS = 15_000 // after which what has not changed is loaded all the same, for what moves by itself
const OLD_MS = 2_000 // what is answered may be a second old, or two where many ask: until then it may be from before a change

// What a source shows, by the beginning of its key; of others nobody tells when they change.
const TOPICS = {
  farm: ['jobs', 'workers', 'instances', 'money'],
  workers: ['workers'],
  worker: ['workers'],
  instances: ['instances'],
  decisions: ['decisions'],
  tree: ['jobs'],
  timeline: ['jobs'],
  pools: ['instances', 'money'],
  budgets: ['money'],
  done: ['jobs'],
  cost: ['money', 'instances'],
  forecast: ['jobs', 'money'],
  limits: ['limits', 'jobs'],
  'explain-worker': ['jobs', 'workers', 'limits'],
  children: ['jobs'],
  attempts: ['jobs'],
  detail: ['jobs'],
  explain: ['jobs', 'workers', 'limits', 'instances', 'money'],
}

const sources = new Map()
let timer = 0
let turn = 0
let watching = false // the server tells what changes

// Seconds since 1970 by the server's clock; it moves once per round, so that ages on the page do too.
export const now = signal(Date.now() / 1000)
// When the server last answered (our clock, ms; 0: not yet), and whether it does now.
export const link = signal({ online: true, answered: 0 })
// '' when calls are let in; else what to tell who should sign in.
export const locked = signal('')
// Whether this farm has people log in with a password, too.
export const passwords = signal(false)

let skew_s = 0

export function setClock(server_s) {
  skew_s = server_s - Date.now() / 1000
  now.value = server_s
}

// What is asked for by scrolling or a click. Where nobody answers, or nobody is let in, the next round of the poller tells so.
export async function unlessAway(call) {
  try {
    await call()
  } catch (error) {
    if (!error.away && error.status !== 401) throw error
  }
}

function sourceOf(key, load, every) {
  let source = sources.get(key)
  if (!source) {
    const topics = TOPICS[key.split(':')[0]]
    source = { users: 0, busy: null, asked: -Infinity, changed: -Infinity, topics, value: signal({ data: undefined, error: null }) }
    sources.set(key, source)
  }
  source.load = load
  source.every = every
  return source
}

async function fetchOnce(source) {
  const asked = performance.now()
  try {
    const data = await source.load()
    link.value = { online: true, answered: Date.now() }
    locked.value = ''
    source.value.value = { data, error: null }
    source.asked = asked
  } catch (error) {
    if (error.status === undefined) throw error // a fault of the page itself belongs in the console
    if (error.away) link.value = { ...link.value, online: false }
    else if (error.status === 401) lock(error)
    else source.value.value = { data: undefined, error }
  }
}

// Calls are refused. One that was sent before another token was given says nothing of that one.
function lock({ token: sent, mode }) {
  if (locked.value || sent !== token.value) return
  passwords.value = mode === 'local' || mode === 'ldap'
  const asked = passwords.value ? 'Please sign in.' : 'This farm asks for a token.'
  locked.value = sent ? 'This token is not known, or no longer valid.' : asked
  setToken('')
}

// What is on its way may have been answered before the change: then it is asked again after it.
async function refreshSource(source) {
  const since = performance.now()
  while (source.busy) await source.busy
  if (source.asked >= since) return
  source.busy = fetchOnce(source).finally(() => {
    source.busy = null
  })
  await source.busy
}

function delay() {
  if (document.hidden) return HIDDEN_MS
  return link.value.online ? VISIBLE_MS : RETRY_MS
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

// Waits for what changes, for as long as the page is open. A server that does not tell is asked for everything.
async function watch() {
  let cursor = ''
  for (;;) {
    if (document.hidden || locked.value) {
      await pause(VISIBLE_MS)
      continue
    }
    try {
      const answer = await changes(cursor, WAIT_S)
      cursor = answer.cursor
      watching = true
      link.value = { online: true, answered: Date.now() }
      const changed = new Set(answer.changed)
      for (const source of sources.values()) {
        if (source.topics?.some((topic) => changed.has(topic)) ?? true) source.changed = performance.now()
      }
      await pause(Math.max(VISIBLE_MS, answer.poll_s * 1_000))
    } catch (error) {
      if (error.status === undefined) throw error
      if (error.away) link.value = { ...link.value, online: false }
      watching = false
      await pause(error.away ? RETRY_MS : 5 * RETRY_MS)
    }
  }
}

function isDue(source) {
  if (!source.users || source.busy) return false
  const { data, error } = source.value.peek()
  if (!data) return !error || turn % REFUSED_TURNS === 0
  if (turn % source.every) return false
  return !watching || !source.topics || source.asked < source.changed + OLD_MS || performance.now() - source.asked > ANYWAY_MS
}

// A round waits for nobody: a slow answer holds up only itself.
function round() {
  clearTimeout(timer)
  timer = setTimeout(round, delay())
  now.value = Date.now() / 1000 + skew_s
  turn += 1
  if (locked.value) return
  for (const source of sources.values()) {
    if (isDue(source)) refreshSource(source)
  }
}

// Load everything that is on screen at once, for instance after an action.
export async function refresh() {
  if (!locked.value) await Promise.all([...sources.values()].filter((source) => source.users).map(refreshSource))
}

// Try to get in with another token.
export function unlock(text) {
  setToken(text)
  locked.value = ''
  return refresh()
}

// Sign in with a password; what went wrong is told where the form is.
export async function signIn(user, password) {
  try {
    await logIn(user, password)
    await unlock('')
  } catch (error) {
    if (error.status === undefined) throw error
    locked.value = error.message
  }
}

export async function signOut() {
  if (!token.value) await logOut()
  await unlock('')
}

export function startPolling() {
  document.addEventListener('visibilitychange', () => {
    clearTimeout(timer)
    timer = setTimeout(round, document.hidden ? HIDDEN_MS : 0)
  })
  round()
  watch()
}

// What `load` gave last, kept fresh every `every` rounds while the component is on screen: {data, error}. No key: nothing is loaded.
export function useLive(key, load, every = 1) {
  const source = key === null ? null : sourceOf(key, load, every)
  useEffect(() => {
    if (!source) return undefined
    source.users += 1
    sources.set(key, source)
    if (!locked.value) refreshSource(source)
    return () => {
      source.users -= 1
      if (!source.users && sources.get(key) === source) sources.delete(key)
    }
  }, [key, locked.value === ''])
  return source ? source.value.value : { data: undefined, error: null }
}
