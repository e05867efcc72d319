// What was just done, in a line at the bottom, with the way back where there is one.
import { signal } from '@preact/signals'

const SHOWN_MS = 10_000
const toast = signal(null)
let timer = 0

export function say(text, undo = null) {
  clearTimeout(timer)
  toast.value = { text, undo }
  timer = setTimeout(hush, SHOWN_MS)
}

function hush() {
  clearTimeout(timer)
  toast.value = null
}

export function Toast() {
  const { text, undo } = toast.value || {}
  const back = async () => {
    hush()
    try {
      await undo()
    } catch (error) {
      if (error.status === undefined) throw error
      say(`It was not undone: ${error.message}`)
    }
  }
  return (
    <div class="toast" role="status">
      {text && (
        <p>
          {text}
          {undo && (
            <button type="button" class="plain" onClick={back}>
              Undo
            </button>
          )}
          <button type="button" class="plain" onClick={hush} aria-label="Close the message">
            ✕
          </button>
        </p>
      )}
    </div>
  )
}
