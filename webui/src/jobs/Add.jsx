// A new job, or a range of frames, with what it will create told by the server before it is made.
import { useEffect, useState } from 'preact/hooks'
import * as api from '../api.js'
import { plural } from '../format.js'
import { Panel } from '../parts.jsx'
import { go, place } from '../place.jsx'
import { refresh } from '../poll.js'
import { say } from '../toast.jsx'
import { begin, Field, general, troublesOf } from './Editor.jsx'
import { FIELDS, valueOf } from './fields.js'

const OWN = {
  frames: ['Frames', 'text', '1-100, 1-100x2 or 1,5,9-12; {frame}, {start}, {end} stand in the command'],
  chunk: ['Frames a job', 'number'],
}
const FIRST = ['title', 'command', 'frames', 'chunk', 'dir', 'priority', 'affinity', 'cpus', 'memory_bytes', 'gpus', 'retries', 'timeout_s', 'depends_on', 'limits', 'user', 'url', 'progress_pattern', 'environment', 'note']
const PAUSE_MS = 300
const fieldOf = (name) => OWN[name] || FIELDS[name]

function specOf(texts, parent) {
  const given = Object.entries(texts).filter(([, text]) => text !== '')
  const read = (name, text) => (name === 'frames' ? text : name === 'chunk' ? Number(text) : valueOf(name, text))
  return { ...Object.fromEntries(given.map(([name, text]) => [name, read(name, text)])), ...(parent ? { parent } : {}) }
}

// What a dry run says while one types: {made} or {error}.
function usePreview(texts, parent) {
  const [told, setTold] = useState({})
  useEffect(() => {
    if (!texts.command && !texts.title) return setTold({})
    let current = true
    const look = async () => {
      try {
        const made = await api.submit([specOf(texts, parent)], { dryRun: true })
        if (current) setTold({ made })
      } catch (error) {
        if (error.status === undefined) throw error
        if (current) setTold({ error })
      }
    }
    const timer = setTimeout(look, PAUSE_MS)
    return () => {
      current = false
      clearTimeout(timer)
    }
  }, [JSON.stringify(texts)])
  return told
}

export function Add({ onClose }) {
  const { parent } = place.value
  const [texts, setTexts] = useState({})
  const [failure, setFailure] = useState(null)
  const { made, error } = usePreview(texts, parent)
  const shown = failure || error
  const troubles = troublesOf(shown)
  const submit = async (event) => {
    event.preventDefault()
    try {
      const { ids, count } = await api.submit([specOf(texts, parent)])
      await refresh()
      say(`Made ${plural(count, 'job')}`)
      onClose()
      go({ job: ids[0] })
    } catch (problem) {
      if (problem.status === undefined) throw problem
      setFailure(problem)
    }
  }
  return (
    <Panel title={parent ? `New job in #${parent}` : 'New job'} label="New job" onClose={onClose}>
      <form class="fields" ref={begin} onSubmit={submit}>
        {FIRST.map((name) => {
          const [word, kind, hint] = fieldOf(name)
          const write = (text) => {
            setFailure(null)
            const { [name]: _, ...others } = texts
            setTexts(text ? { ...others, [name]: text } : others)
          }
          return <Field key={name} {...{ name, word, kind, hint, before: '', text: texts[name], trouble: troubles[name] }} onText={write} />
        })}
        <div class="foot">
          {made && <p class="preview" role="status">{previewWords(made, texts)}</p>}
          {general(shown, FIRST) && <p class="trouble" role="alert">{shown.message}</p>}
          <button type="submit" class="main" disabled={!made}>
            Submit
          </button>
        </div>
      </form>
    </Panel>
  )
}

function previewWords({ count }, texts) {
  if (!texts.frames) return count === 1 ? 'This makes one job.' : `This makes ${plural(count, 'job')}.`
  return `This makes a group and ${plural(count - 1, 'job')} in it, for frames ${texts.frames}.`
}
