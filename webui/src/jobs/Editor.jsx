// The properties of one job or of many: what differs is said, and only what was changed is sent.
import { useEffect, useState } from 'preact/hooks'
import * as api from '../api.js'
import { plural } from '../format.js'
import { Loading, Panel } from '../parts.jsx'
import { refresh } from '../poll.js'
import { say } from '../toast.jsx'
import { FIELDS, KINDS, textOf, valueOf } from './fields.js'

const COMPARED = 50 // jobs whose values are looked up
const MIXED = 'several values'

// Who opens a form writes in it: the ref of a form.
export const begin = (form) => form?.querySelector('input, textarea').focus()

// One field; `text` undefined: as it is.
export function Field({ name, word, kind, hint, text, before, trouble, onText }) {
  const { area, numeric } = KINDS[kind]
  const id = `field-${name}`
  const shared = {
    id,
    value: text ?? (before === MIXED ? '' : before),
    placeholder: before === MIXED ? (numeric ? MIXED : `${MIXED}; a space empties them`) : undefined,
    'aria-invalid': trouble ? 'true' : undefined,
    'aria-describedby': trouble ? `${id}-trouble` : undefined,
    onInput: (event) => onText(event.target.value),
  }
  return (
    <div class={text === undefined ? 'field' : 'field changed'}>
      <label for={id}>{word}</label>
      {kind === 'flag' ? (
        <select {...shared} onChange={shared.onInput}>
          {before === MIXED && <option value="">{MIXED}</option>}
          <option>no</option>
          <option>yes</option>
        </select>
      ) : area ? (
        <textarea rows={name === 'command' ? 3 : 2} spellcheck={false} {...shared} />
      ) : (
        <input inputMode={numeric && kind === 'number' ? 'numeric' : undefined} spellcheck={false} {...shared} />
      )}
      {hint && <span class="hint">{hint}</span>}
      {trouble && (
        <span class="trouble" id={`${id}-trouble`}>
          {trouble}
        </span>
      )}
    </div>
  )
}

// What the server said of fields, by the field's own name, whatever is before it ("jobs[0].", "changes.").
export function troublesOf(error) {
  return Object.fromEntries(Object.entries(error?.fields || {}).map(([path, words]) => [path.replace(/^(changes|jobs\[0\])\./, '').replace(/[.[].*$/, ''), words]))
}

export const general = (error, known) => error && !Object.keys(troublesOf(error)).some((name) => known.includes(name)) && error.message

function useJobs(which) {
  const [jobs, setJobs] = useState(null)
  useEffect(() => {
    const look = async () => {
      const ids = Array.isArray(which) ? which.slice(0, COMPARED) : (await api.page({ ...which, limit: COMPARED, fields: 'id' })).jobs.map((job) => job.id)
      setJobs(await Promise.all(ids.map(api.job)))
    }
    look().catch((error) => {
      if (error.status === undefined) throw error
      setJobs([])
    })
  }, [JSON.stringify(which)])
  return jobs
}

const beforeOf = (name, jobs) => {
  const texts = new Set(jobs.map((job) => textOf(name, job)))
  return texts.size > 1 ? MIXED : [...texts][0] ?? ''
}

export function Editor({ which, onClose }) {
  const jobs = useJobs(which)
  const [texts, setTexts] = useState({})
  const [error, setError] = useState(null)
  const [busy, setBusy] = useState(false)
  const many = Array.isArray(which) ? which.length : 0
  const changed = Object.keys(texts)
  const troubles = troublesOf(error)
  const isAll = many ? many <= COMPARED : jobs?.length < COMPARED // whose values are known
  // What is as it was of all, or empty where there are several values, is no change.
  const write = (name, text) => {
    const { [name]: _, ...others } = texts
    const before = beforeOf(name, jobs)
    const same = before === MIXED ? text === '' : isAll && text === before
    setTexts(same ? others : { ...others, [name]: text })
  }
  const submit = async (event) => {
    event.preventDefault()
    setBusy(true)
    try {
      const changes = Object.fromEntries(changed.map((name) => [name, valueOf(name, texts[name])]))
      const done = await api.edit(which, changes)
      await refresh()
      say(`Changed ${plural(done.changed, 'job')}`)
      onClose()
    } catch (failure) {
      if (failure.status === undefined) throw failure
      setError(failure)
    } finally {
      setBusy(false)
    }
  }
  return (
    <Panel title={many === 1 ? `Properties of ${jobs?.[0]?.title || `job ${which[0]}`}` : `Properties of ${many ? plural(many, 'job') : 'all that match'}`} label="Properties" onClose={onClose}>
      {!jobs && <Loading />}
      {jobs && (
        <form class="fields" ref={begin} onSubmit={submit}>
          {!isAll && <p class="hint">These are the values of the first {COMPARED}; those of others may differ.</p>}
          {Object.entries(FIELDS).map(([name, [word, kind, hint]]) => (
            <Field
              key={name}
              {...{ name, word, kind, hint, before: beforeOf(name, jobs), text: texts[name], trouble: troubles[name] }}
              onText={(text) => write(name, text)}
            />
          ))}
          <div class="foot">
            {general(error, Object.keys(FIELDS)) && <p class="trouble" role="alert">{error.message}</p>}
            <button type="submit" class="main" disabled={busy || !changed.length}>
              {changed.length ? `Change ${plural(changed.length, 'field')}` : 'Nothing changed'}
            </button>
            <button type="button" onClick={() => setTexts({})} disabled={!changed.length}>
              As it was
            </button>
          </div>
        </form>
      )}
    </Panel>
  )
}
