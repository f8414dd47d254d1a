# Target tensorrt_headers: the include directory of TensorRT's C++ headers, 10.3 or later, looked for in
#   1. TENSORRT_INCLUDE_DIR, when the user set it,
#   2. the system's include paths (JetPack, NVIDIA's containers, the Debian packages),
#   3. the Python package kernel-lens of Python3_EXECUTABLE, which carries the Apache-2.0 headers of TensorRT 10.14.
# No TensorRT library is looked for: the plugins do not link one.
find_path(TENSORRT_INCLUDE_DIR NvInferRuntime.h DOC "Directory of TensorRT's NvInferRuntime.h")
if(NOT TENSORRT_INCLUDE_DIR)
    find_package(Python3 COMPONENTS Interpreter)
    if(Python3_Interpreter_FOUND)
        # find_spec locates a top-level package without running it.
        execute_process(
            COMMAND ${Python3_EXECUTABLE} -c
                    "import importlib.util as u; s = u.find_spec('kernel_lens'); print(s.submodule_search_locations[0] if s else '', end='')"
            OUTPUT_VARIABLE kernel_lens)
        find_path(TENSORRT_INCLUDE_DIR NvInferRuntime.h PATHS "${kernel_lens}/include/tensorrt" NO_DEFAULT_PATH)
    endif()
endif()
if(NOT TENSORRT_INCLUDE_DIR OR NOT EXISTS ${TENSORRT_INCLUDE_DIR}/NvInferVersion.h)
    message(FATAL_ERROR
        "TensorRT's C++ headers (NvInferRuntime.h) were not found: TENSORRT_INCLUDE_DIR is '${TENSORRT_INCLUDE_DIR}', the "
        "system's include paths have none, and ${Python3_EXECUTABLE} has no package kernel-lens. Do one of: "
        "-DTENSORRT_INCLUDE_DIR=/path/to/include; install libnvinfer-headers-dev; "
        "${Python3_EXECUTABLE} -m pip install --no-deps kernel-lens (its dependencies are not needed).")
endif()

# A version is written as a number or, from 10.8 on, through a macro TRT_<PART>_ENTERPRISE.
file(READ ${TENSORRT_INCLUDE_DIR}/NvInferVersion.h version_header)
foreach(part MAJOR MINOR)
    string(REGEX MATCH "#define (NV_TENSORRT_${part}|TRT_${part}_ENTERPRISE) ([0-9]+)" _ "${version_header}")
    set(TENSORRT_${part} ${CMAKE_MATCH_2})
endforeach()
message(STATUS "TensorRT headers: ${TENSORRT_INCLUDE_DIR} (${TENSORRT_MAJOR}.${TENSORRT_MINOR})")
if("${TENSORRT_MAJOR}.${TENSORRT_MINOR}" VERSION_LESS 10.3)
    message(FATAL_ERROR "${TENSORRT_INCLUDE_DIR} holds the headers of TensorRT ${TENSORRT_MAJOR}.${TENSORRT_MINOR}; "
                        "10.3 or later is needed. Set TENSORRT_INCLUDE_DIR to those of another version.")
endif()

add_library(tensorrt_headers INTERFACE)
target_include_directories(tensorrt_headers SYSTEM INTERFACE ${TENSORRT_INCLUDE_DIR})
# NvInferRuntimeBase.h includes cuda_runtime_api.h.
target_link_libraries(tensorrt_headers INTERFACE CUDA::toolkit)
