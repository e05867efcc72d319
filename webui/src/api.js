// Every call that the page makes: one function per route, with the names of coalition.client (drain_workers is drainWorkers here).
import { signal } from '@preact/signals'

const ROOT = '/api/v1'
const TIMEOUT_MS = 20_000
const KEY = 'coalition.token'

// The token of this tab; empty where the server asks for none.
export const token = signal(sessionStorage.getItem(KEY) || '')

export function setToken(text) {
  token.value = text
  if (text) sessionStorage.setItem(KEY, text)
  else sessionStorage.removeItem(KEY)
}

// The server's answer to a call that it refused; `status` 0 means that no answer came.
export class ApiError extends Error {
  constructor(status, detail, token = '') {
    super(detail)
    this.status = status
    this.token = token // the one that was sent
  }

  // Nobody answered, or a proxy answered for a server that is away.
  get away() {
    return this.status === 0 || this.status === 502 || this.status === 503 || this.status === 504
  }
}

async function refusal(response, sent) {
  let detail = `the server answered ${response.status}`
  try {
    const problem = await response.json()
    detail = problem.detail || problem.title || detail
  } catch {
    // not a problem body: a proxy's page, perhaps
  }
  return new ApiError(response.status, detail, sent)
}

async function send(method, path, { query, body, etag } = {}) {
  const address = new URL(ROOT + path, location.origin)
  for (const [name, value] of Object.entries(query || {})) {
    if (value !== undefined && value !== null && value !== '') address.searchParams.set(name, value)
  }
  const headers = {}
  const sent = token.value
  if (sent) headers.Authorization = `Bearer ${sent}`
  if (body) headers['Content-Type'] = 'application/json'
  else headers['Cache-Control'] = 'max-age=1' // many pages ask the same: an answer of the last second will do
  if (etag) headers['If-None-Match'] = etag
  let response
  try {
    response = await fetch(address, {
      method,
      headers,
      body: body && JSON.stringify(body),
      cache: 'no-store',
      signal: AbortSignal.timeout(TIMEOUT_MS),
    })
  } catch {
    throw new ApiError(0, 'the server does not answer')
  }
  if (!response.ok && response.status !== 304) throw await refusal(response, sent)
  return response
}

const KEPT = 50
const kept = new Map() // by what was asked: the answer, and its ETag

async function get(path, query) {
  const key = JSON.stringify([token.value, path, query])
  const before = kept.get(key)
  const response = await send('GET', path, { query, etag: before?.etag })
  if (response.status === 304) return before.data
  const data = await response.json()
  kept.delete(key)
  kept.set(key, { etag: response.headers.get('ETag'), data })
  if (kept.size > KEPT) kept.delete(kept.keys().next().value)
  return data
}

const post = async (path, body) => (await send('POST', path, { body })).json()

export const info = () => get('/server')
export const farm = () => get('/farm')
export const changes = async (since, wait) => (await send('GET', '/changes', { query: { since, wait } })).json()

export const page = (query) => get('/jobs', query)
export const job = (id) => get(`/jobs/${id}`)
export const attempts = async (id) => (await get(`/jobs/${id}/attempts`)).attempts
export const explain = async (id) => (await get(`/jobs/${id}/explain`)).reasons
export const pause = (ids) => post('/jobs/pause', { ids })
export const start = (ids) => post('/jobs/start', { ids })
export const reset = (ids, errorsOnly = false) => post('/jobs/reset', { ids, errors_only: errorsOnly })
export const skip = (ids) => post('/jobs/skip', { ids })
const remove = (ids) => post('/jobs/delete', { ids })
export { remove as delete } // a reserved word, but a good name

// Bytes of the newest attempt's log from `offset` (negative: from the end), and where they are in it.
export async function log(id, offset = 0, limit = undefined) {
  const response = await send('GET', `/jobs/${id}/log`, { query: { offset, limit } })
  const header = (name) => Number(response.headers.get(name) || 0)
  return {
    bytes: new Uint8Array(await response.arrayBuffer()),
    attempt: header('X-Log-Attempt'),
    size: header('X-Log-Size'),
    offset: header('X-Log-Offset'),
    open: header('X-Log-Open') === 1,
  }
}

export const workers = async () => (await get('/workers')).workers
export const drainWorkers = (ids) => post('/workers/drain', { ids })
export const resumeWorkers = (ids) => post('/workers/resume', { ids })
export const deleteWorkers = (ids) => post('/workers/delete', { ids })

export const instances = async () => (await get('/instances')).instances
export const drainInstances = (ids) => post('/instances/drain', { ids })
export const terminateInstances = (ids) => post('/instances/terminate', { ids })

export const decisions = async (limit) => (await get('/decisions', { limit })).decisions
