// The one poller: about once a second it loads what the views on screen have asked for, and knows whether the server answers.
import { signal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import { setToken, token } from './api.js'

const VISIBLE_MS = 1_000
const HIDDEN_MS = 15_000
const RETRY_MS = 2_000

const sources = new Map()
let timer = 0
let turn = 0

// Seconds since 1970 by the server's clock; it moves once per round, so that ages on the page do too.
export const now = signal(Date.now() / 1000)
// When the server last answered (our clock, ms; 0: not yet), and whether it does now.
export const link = signal({ online: true, answered: 0 })
// '' when calls are let in; else what to tell who should sign in.
export const locked = signal('')

let skew_s = 0

export function setClock(server_s) {
  skew_s = server_s - Date.now() / 1000
  now.value = server_s
}

function sourceOf(key, load, every) {
  let source = sources.get(key)
  if (!source) {
    source = { users: 0, busy: null, value: signal({ data: undefined, error: null }) }
    sources.set(key, source)
  }
  source.load = load
  source.every = every
  return source
}

async function fetchOnce(source) {
  try {
    const data = await source.load()
    link.value = { online: true, answered: Date.now() }
    locked.value = ''
    source.value.value = { data, error: null }
  } catch (error) {
    if (error.status === undefined) throw error // a fault of the page itself belongs in the console
    if (error.away) link.value = { ...link.value, online: false }
    else if (error.status === 401) lock(error.token)
    else source.value.value = { data: undefined, error }
  }
}

// Calls are refused. One that was sent before another token was given says nothing of that one.
function lock(sent) {
  if (locked.value || sent !== token.value) return
  locked.value = sent ? 'This token is not known, or no longer valid.' : 'This farm asks for a token.'
  setToken('')
}

function refreshSource(source) {
  source.busy ||= fetchOnce(source).finally(() => {
    source.busy = null
  })
  return source.busy
}

function delay() {
  if (document.hidden) return HIDDEN_MS
  return link.value.online ? VISIBLE_MS : RETRY_MS
}

// A round waits for nobody: a slow answer holds up only itself.
function round() {
  clearTimeout(timer)
  timer = setTimeout(round, delay())
  now.value = Date.now() / 1000 + skew_s
  turn += 1
  if (locked.value) return
  for (const source of sources.values()) {
    if (source.users && (turn % source.every === 0 || !source.value.peek().data)) refreshSource(source)
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

export function startPolling() {
  document.addEventListener('visibilitychange', () => {
    clearTimeout(timer)
    timer = setTimeout(round, document.hidden ? HIDDEN_MS : 0)
  })
  round()
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
