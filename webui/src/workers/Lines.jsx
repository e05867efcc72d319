// The affinity lines of a worker, edited in their place: a double click, or its button by keyboard.
import { useLayoutEffect, useRef, useState } from 'preact/hooks'
import * as api from '../api.js'
import { refresh } from '../poll.js'
import { say } from '../toast.jsx'

// Lines are divided by commas, tags of a line by spaces.
const textOf = (worker) => worker.affinity.map((line) => line.join(' ')).join(', ')
const linesOf = (text) => text.split(',').map((line) => line.split(/\s+/).filter(Boolean))

export function Lines({ worker }) {
  const [edited, setEdited] = useState(null)
  const text = edited?.id === worker.id ? edited.text : null // the row may be another worker's by now
  const setText = (written) => setEdited(written === null ? null : { id: worker.id, text: written })
  const may = worker.allowed_actions.includes('edit')
  const told = worker.affinity.map((line) => line.join(' ') || 'any job without tags').join('\n')
  const input = useRef(null)
  useLayoutEffect(() => input.current?.focus(), [text === null])
  const leave = (event) => {
    event.target.closest('[tabindex="0"]').focus({ preventScroll: true })
    setText(null)
  }
  const begin = (event) => {
    event.stopPropagation()
    setText(textOf(worker))
  }
  const save = async (event) => {
    const wanted = text
    leave(event)
    if (wanted === textOf(worker)) return
    try {
      await api.editWorkers([worker.id], { affinity: linesOf(wanted) })
      say(`Changed the lines of ${worker.name}`)
    } catch (error) {
      if (error.status === undefined) throw error
      say(`The lines of ${worker.name} stay as they were: ${Object.values(error.fields)[0] || error.message}`)
    }
    await refresh()
  }
  const onKeyDown = (event) => {
    event.stopPropagation()
    if (event.key === 'Enter') save(event)
    else if (event.key === 'Escape') leave(event)
  }
  if (text !== null) {
    return (
      <span role="gridcell" class="tags editing" onClick={(event) => event.stopPropagation()}>
        <input
          aria-label={`Affinity lines of ${worker.name}, divided by commas`}
          value={text}
          spellcheck={false}
          ref={input}
          onInput={(event) => setText(event.target.value)}
          onKeyDown={onKeyDown}
        />
      </span>
    )
  }
  return (
    <span role="gridcell" class="tags" title={told} onClick={(event) => may && event.stopPropagation()} onDblClick={may ? begin : undefined}>
      <span class="text">{textOf(worker)}</span>
      {may && (
        <button type="button" class="plain pen" onClick={begin} aria-label={`Edit the lines of ${worker.name}`} title="Edit the lines">
          ✎
        </button>
      )}
    </span>
  )
}
