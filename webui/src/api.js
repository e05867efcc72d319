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
  constructor(status, detail, token = '', fields = {}, mode = '') {
    super(detail)
    this.mode = mode // how this farm has people log in
    this.status = status
    this.token = token // the one that was sent
    this.fields = fields // of what was sent: what is wrong with each
  }

  // Nobody answered, or a proxy answered for a server that is away.
  get away() {
    return this.status === 0 || this.status === 502 || this.status === 503 || this.status === 504
  }
}

async function refusal(response, sent) {
  let detail = `the server answered ${response.status}`
  let fields = {}
  let mode = ''
  try {
    const problem = await response.json()
    detail = problem.detail || problem.title || detail
    fields = problem.fields || fields
    mode = problem.auth || mode
  } catch {
    // not a problem body: a proxy's page, perhaps
  }
  return new ApiError(response.status, detail, sent, fields, mode)
}

async function send(method, path, { query, body, etag } = {}) {
  const address = new URL(ROOT + path, location.origin)
  for (const [name, value] of Object.entries(query || {})) {
    if (value !== undefined && value !== null && value !== '') address.searchParams.set(name, value)
  }
  const headers = {}
  const sent = token.value
  if (sent) headers.Authorization = `Bearer ${sent}`
  if (csrf && method !== 'GET') headers['X-CSRF-Token'] = csrf
  if (method !== 'GET') headers['Content-Type'] = 'application/json'
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
  const data = await jsonOf(response)
  kept.delete(key)
  if (query?.limit >= 1_000) return data // too much to keep
  kept.set(key, { etag: response.headers.get('ETag'), data })
  if (kept.size > KEPT) kept.delete(kept.keys().next().value)
  return data
}

// The JSON of an answer; one that breaks off, or is a proxy's page, is no answer.
async function jsonOf(response) {
  try {
    return await response.json()
  } catch {
    throw new ApiError(0, 'the answer broke off')
  }
}

const call = async (method, path, body, query) => jsonOf(await send(method, path, { body, query }))
const post = (path, body, query) => call('POST', path, body, query)

// Of a log-in with a password: proves that a change comes from this page.
let csrf = ''
// Of jobs' addresses those that are opened have one of these.
export const schemes = signal([])
// Origins besides this one whose pictures are shown.
export const picturesFrom = signal([])

export async function info() {
  const server = await get('/server')
  csrf = server.csrf || ''
  schemes.value = server.url_schemes || []
  picturesFrom.value = server.pictures_from || []
  return server
}

// Logs in with a password; the cookie is the browser's, and no script reads it.
export async function logIn(user, password) {
  csrf = (await post('/login', { user, password })).csrf
}

export const logOut = () => post('/logout', {})
export const farm = () => get('/farm')
export const changes = async (since, wait) => jsonOf(await send('GET', '/changes', { query: { since, wait } }))

export const submit = (jobs, { dryRun = false } = {}) => post('/jobs', { jobs }, { dry_run: dryRun || null })
export const page = (query) => get('/jobs', query)
export const job = (id) => get(`/jobs/${id}`)
export const attempts = async (id) => (await get(`/jobs/${id}/attempts`)).attempts
export const explain = async (id) => (await get(`/jobs/${id}/explain`)).reasons
export const timeline = async (id, limit) => (await get(`/jobs/${id}/timeline`, { limit })).timeline

// Which jobs: [ids], or { filter } for all that fit. With `partial` what is refused is left out; with `dryRun` it is only told.
const act = (method, path, which, more, { partial = false, dryRun = false } = {}) =>
  call(method, path, { ...(Array.isArray(which) ? { ids: which } : which), ...more }, { partial: partial || null, dry_run: dryRun || null })
export const edit = (which, changes, how) => act('PATCH', '/jobs', which, { changes }, how)
export const pause = (which, how) => act('POST', '/jobs/pause', which, {}, how)
export const start = (which, how) => act('POST', '/jobs/start', which, {}, how)
export const reset = (which, { errorsOnly = false, ...how } = {}) => act('POST', '/jobs/reset', which, { errors_only: errorsOnly }, how)
export const skip = (which, how) => act('POST', '/jobs/skip', which, {}, how)
const remove = (which, how) => act('POST', '/jobs/delete', which, {}, how)
export { remove as delete } // a reserved word, but a good name

async function piece(path, offset, limit) {
  const response = await send('GET', path, { query: { offset, limit } })
  const header = (name) => Number(response.headers.get(name) || 0)
  return {
    bytes: new Uint8Array(await response.arrayBuffer()),
    attempt: header('X-Log-Attempt'),
    size: header('X-Log-Size'),
    offset: header('X-Log-Offset'),
    open: header('X-Log-Open') === 1,
  }
}

// Bytes of the newest attempt's log, or of one attempt's, from `offset` (negative: from the end), and where they are in it.
export const log = (id, offset = 0, limit = undefined) => piece(`/jobs/${id}/log`, offset, limit)
export const attemptLog = (id, offset = 0, limit = undefined) => piece(`/attempts/${id}/log`, offset, limit)

export const workers = async (query) => (await get('/workers', query)).workers
export const worker = (id) => get(`/workers/${id}`)
export const explainWorker = async (id) => (await get(`/workers/${id}/explain`)).reasons
export const editWorkers = (ids, changes) => call('PATCH', '/workers', { ids, changes })
export const drainWorkers = (ids) => post('/workers/drain', { ids })
export const resumeWorkers = (ids) => post('/workers/resume', { ids })
export const deleteWorkers = (ids) => post('/workers/delete', { ids })

export const limits = async () => (await get('/limits')).limits
export const setLimit = (name, maximum, perHost = false) => call('PUT', `/limits/${encodeURIComponent(name)}`, { maximum, per_host: perHost })
export const deleteLimit = (name) => call('DELETE', `/limits/${encodeURIComponent(name)}`)
export const affinities = async () => (await get('/affinities')).affinities
export const events = async (query) => (await get('/events', query)).events
export const audit = async (query) => (await get('/audit', query)).audit
export const allAttempts = async (query) => (await get('/attempts', query)).attempts

export const pools = async () => (await get('/pools')).pools
export const resumePools = (names) => post('/pools/resume', { names })
export const drainPools = (names) => post('/pools/drain', { names })
export const launch = (pool, count, offering = '') => post('/pools/launch', { pool, count, offering })
export const pauseScaling = () => post('/scaling/pause', {})
export const resumeScaling = () => post('/scaling/resume', {})
export const prices = async () => (await get('/prices')).prices
export const budgets = async () => (await get('/budgets')).budgets
const rehearsal = ({ dryRun = false } = {}) => ({ dry_run: dryRun || null })
export const createBudget = (fields, how) => post('/budgets', fields, rehearsal(how))
export const editBudget = (name, fields, how) => call('PATCH', `/budgets/${encodeURIComponent(name)}`, fields, rehearsal(how))
export const deleteBudget = (name, how) => call('DELETE', `/budgets/${encodeURIComponent(name)}`, {}, rehearsal(how))
export const instances = async (query) => (await get('/instances', query)).instances
export const drainInstances = (ids) => post('/instances/drain', { ids })
export const terminateInstances = (ids) => post('/instances/terminate', { ids })
export const ledger = async (since, groupBy) => (await get('/ledger', { since, group_by: groupBy })).entries
export const cost = async (query) => (await get('/cost', query)).entries
export const costCsv = async (query) => (await send('GET', '/cost.csv', { query })).text()
export const forecast = (job) => get('/forecast', { job })
export const history = (since) => get('/history', { since })
export const decisions = async (limit) => (await get('/decisions', { limit })).decisions

export const tokens = async () => (await get('/tokens')).tokens
export const createToken = (fields) => post('/tokens', fields)
export const deleteToken = (id) => call('DELETE', `/tokens/${encodeURIComponent(id)}`)

export const users = async () => (await get('/users')).users
export const createUser = (name, password, role) => post('/users', { name, password, role })
export const editUser = (name, fields) => call('PATCH', `/users/${encodeURIComponent(name)}`, fields)
export const deleteUser = (name) => call('DELETE', `/users/${encodeURIComponent(name)}`, {})
export const changePassword = (old, fresh) => post('/password', { old, new: fresh })
